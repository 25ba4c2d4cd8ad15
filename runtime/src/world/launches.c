/* launches.c: see launches.h. */
#include "world/launches.h"

#include "world/world.h"

#include <stdlib.h>

struct mlc_launches {
    FILE *text; /* in memory */
    char *bytes;
    size_t length;
};

/* Where the image of the program, or of the shared library, begins; by the linker. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));

mlc_launches *mlc_launches_open(void)
{
    mlc_launches *launches = calloc(1, sizeof *launches);
    if (launches)
        launches->text = open_memstream(&launches->bytes, &launches->length);
    if (launches && !launches->text) {
        free(launches);
        return NULL;
    }
    return launches;
}

void mlc_launches_close(mlc_launches *launches)
{
    if (!launches)
        return;
    fclose(launches->text);
    free(launches->bytes);
    free(launches);
}

void mlc_launches_action(mlc_launches *launches, const char *name)
{
    if (launches)
        fprintf(launches->text, "%s\n", name);
}

static void print_operands(FILE *text, const uint64_t *operands, int count)
{
    for (int i = 0; i < count; i++)
        if (operands[i] != MLC_NONE)
            fprintf(text, " %llu", (unsigned long long)operands[i]);
}

static unsigned long long in_image(uintptr_t function)
{
    return function - (uintptr_t)__ehdr_start;
}

void mlc_launches_row(mlc_launches *launches, mlc_function function, const char *name, const uint64_t *operands, int count)
{
    if (!launches)
        return;
    fprintf(launches->text, "  0x%llx %s:", in_image((uintptr_t)function), name);
    print_operands(launches->text, operands, count);
    fputc('\n', launches->text);
}

void mlc_launches_sweep(mlc_launches *launches, void (*function)(void), mlc_sweep_name name, const uint64_t *operands, int count,
                        int64_t begin, int64_t end)
{
    if (!launches)
        return;
    fprintf(launches->text, "  0x%llx %s %s:", in_image((uintptr_t)function), name.kernel, name.parameter);
    print_operands(launches->text, operands, count);
    fprintf(launches->text, ", elements %lld to %lld\n", (long long)begin, (long long)end);
}

void mlc_launches_message(mlc_launches *launches, const mlc_link *link, const char *base)
{
    if (!launches)
        return;
    const mlc_channel *channel = link->channel;
    if (link->sends)
        fprintf(launches->text, "  %s %lld to rank %d: %lld -> %llu, %llu bytes\n", channel->name, (long long)link->posted, link->peer,
                (long long)(mlc_link_outgoing(link, link->posted) - base),
                (unsigned long long)(link->peer_inbox + (uint64_t)(link->posted % channel->slots) * channel->slot_bytes),
                (unsigned long long)channel->slot_bytes);
    else
        fprintf(launches->text, "  %s %lld of rank %d: %lld\n", channel->name, (long long)link->released, link->peer,
                (long long)(mlc_link_incoming(link, link->released) - base));
}

bool mlc_launches_print(mlc_launches *launches, FILE *out)
{
    if (!launches || fflush(launches->text) || ferror(launches->text))
        return false;
    fwrite(launches->bytes, 1, launches->length, out);
    return true;
}
