/* mesh.h: models that are nothing but ranks and channels, for what tests transports. */
#ifndef TEST_MESH_H
#define TEST_MESH_H

#include "check.h"
#include "mlc_abi.h"
#include "world/world.h"

enum { MESH_PLACES = 8, MESH_CHANNELS = 64, MESH_PAGE = 4096 };

typedef struct mesh {
    mlc_model model;
    mlc_schedule schedule;
    mlc_role roles[MESH_PLACES];
    mlc_channel channels[MESH_CHANNELS];
    char names[MESH_CHANNELS][32];
} mesh;

/* A mesh with the tree of its ranks alone. Not to be moved. */
static inline void mesh_begin(mesh *ranks, int pp, int dp, uint64_t tree_bytes, int tree_slots)
{
    CHECK(pp <= MESH_PLACES);
    memset(ranks, 0, sizeof *ranks);
    ranks->model = (mlc_model){.abi_version = MLC_ABI_VERSION, .name = "mesh", .hash = "0", .mesh = MLC_MESH(pp, dp), .roles = ranks->roles,
                               .schedule = &ranks->schedule};
    ranks->schedule.channels = ranks->channels;
    ranks->channels[0] = (mlc_channel){.name = "tree", .kind = MLC_TREE, .chain = -1, .from = -1, .to = -1, .slot_bytes = tree_bytes,
                                       .slots = tree_slots, .outbox_slots = tree_slots};
    ranks->schedule.channel_count = 1;
}

static inline void mesh_add(mesh *ranks, int kind, int from, int to, uint64_t slot_bytes, int slots, int outbox_slots)
{
    int number = ranks->schedule.channel_count++;
    CHECK(number < MESH_CHANNELS);
    snprintf(ranks->names[number], sizeof ranks->names[number], "channel.%d", number);
    ranks->channels[number] = (mlc_channel){.name = ranks->names[number], .kind = kind, .chain = -1, .from = from, .to = to,
                                            .slot_bytes = slot_bytes, .slots = slots, .outbox_slots = outbox_slots};
}

/* Blocks of slots that a rank has of a channel, in one direction. */
static inline int mesh_blocks(const mesh *ranks, const mlc_channel *channel)
{
    int neighbours = mlc_cohort_blocks(ranks->model.mesh.size[MLC_DP]);
    return channel->kind == MLC_TREE ? MLC_TREE_NEIGHBOURS : channel->kind == MLC_REPLICAS ? neighbours : 1;
}

static inline uint64_t mesh_take(uint64_t *end, uint64_t bytes)
{
    *end += bytes;
    return *end - bytes;
}

/* Gives every channel its place: at each place the tree, the inboxes, then the outboxes. */
static inline void mesh_end(mesh *ranks)
{
    for (int place = 0; place < ranks->model.mesh.size[MLC_PP]; place++) {
        uint64_t end = 0;
        for (int i = 0; i < ranks->schedule.channel_count; i++) {
            mlc_channel *channel = &ranks->channels[i];
            uint64_t blocks = (uint64_t)mesh_blocks(ranks, channel);
            if (channel->kind != MLC_TREE && channel->to != place)
                continue;
            channel->headers = mesh_take(&end, blocks * MLC_HEADER_BYTES);
            channel->inbox = mesh_take(&end, blocks * channel->slot_bytes * (uint64_t)channel->slots);
            if (channel->kind == MLC_TREE)
                channel->outbox = mesh_take(&end, blocks * channel->slot_bytes * (uint64_t)channel->outbox_slots);
        }
        end = (end + MESH_PAGE - 1) / MESH_PAGE * MESH_PAGE;
        ranks->roles[place].inbox_bytes = end;
        for (int i = 0; i < ranks->schedule.channel_count; i++) {
            mlc_channel *channel = &ranks->channels[i];
            uint64_t blocks = (uint64_t)mesh_blocks(ranks, channel);
            if (channel->kind != MLC_TREE && channel->from == place)
                channel->outbox = mesh_take(&end, blocks * channel->slot_bytes * (uint64_t)channel->outbox_slots);
        }
        ranks->roles[place].arena_bytes = end;
    }
}

#endif
