/* bundle.c: see bundle.h. */
#include "checkpoint/bundle.h"

#include "mlc.h"
#include "system/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int add_file(mlc_bundle *bundle, const char *path, mlc_error *error)
{
    mlc_safetensors *files = realloc(bundle->files, (size_t)(bundle->count + 1) * sizeof *files);
    if (!files)
        return mlc_error_set(error, MLC_FAILED, "%s: out of memory", path);
    bundle->files = files;
    if (!mlc_safetensors_open(&files[bundle->count], path, error))
        bundle->count++;
    return error->status;
}

/* The file of this path that is open, NULL: none. */
static const mlc_safetensors *file_of(const mlc_bundle *bundle, const char *path)
{
    for (int64_t i = bundle->count - 1; i >= 0; i--)
        if (!strcmp(bundle->files[i].path, path))
            return &bundle->files[i];
    return NULL;
}

static int add_member(mlc_bundle *bundle, const char *directory, const char *index, const mlc_json_node *member, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    const char *name = mlc_json_string(member);
    if (!name || strchr(name, '/'))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: tensor %.200s has no file name", index, member->key);
    if (mlc_path_join(path, directory, name, error))
        return error->status;
    return file_of(bundle, path) ? MLC_OK : add_file(bundle, path, error);
}

/* Is a tensor where the index says? */
static int check_member(const mlc_bundle *bundle, const char *directory, const char *index, const mlc_json_node *member, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    const char *name = mlc_json_string(member);
    if (mlc_path_join(path, directory, name, error))
        return error->status;
    if (!mlc_safetensors_find(file_of(bundle, path), member->key))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: tensor %.200s is not in %.200s", index, member->key, name);
    return MLC_OK;
}

static int add_indexed(mlc_bundle *bundle, const char *directory, const char *index, const mlc_json *json, mlc_error *error)
{
    const mlc_json_node *map = mlc_json_member(json, &json->nodes[0], "weight_map");
    if (!map || map->kind != MLC_JSON_OBJECT)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: no weight_map", index);
    for (const mlc_json_node *member = mlc_json_first(json, map); member; member = mlc_json_next(json, member))
        if (add_member(bundle, directory, index, member, error))
            return error->status;
    for (const mlc_json_node *member = mlc_json_first(json, map); member; member = mlc_json_next(json, member))
        if (check_member(bundle, directory, index, member, error))
            return error->status;
    return MLC_OK;
}

static int open_index(mlc_bundle *bundle, const char *directory, const char *index, mlc_error *error)
{
    mlc_mapping mapping;
    mlc_json json;
    if (mlc_mapping_open(&mapping, index, error))
        return error->status;
    if (!mlc_json_parse(&json, (const char *)mapping.base, mapping.bytes, index, error)) {
        add_indexed(bundle, directory, index, &json, error);
        mlc_json_free(&json);
    }
    mlc_mapping_close(&mapping);
    return error->status;
}

int mlc_bundle_open_file(mlc_bundle *bundle, const char *path, mlc_error *error)
{
    *bundle = (mlc_bundle){0};
    return add_file(bundle, path, error);
}

int mlc_bundle_open_directory(mlc_bundle *bundle, const char *directory, const char *stem, mlc_error *error)
{
    char name[64], path[MLC_PATH_BYTES];
    *bundle = (mlc_bundle){0};
    snprintf(name, sizeof name, "%s.safetensors.index.json", stem);
    if (mlc_path_join(path, directory, name, error))
        return error->status;
    if (mlc_path_is_file(path))
        return open_index(bundle, directory, path, error);
    snprintf(name, sizeof name, "%s.safetensors", stem);
    return mlc_path_join(path, directory, name, error) ? error->status : add_file(bundle, path, error);
}

int mlc_bundle_check(const mlc_bundle *bundle, mlc_error *error)
{
    for (int64_t i = 0; i < bundle->count; i++)
        if (mlc_mapping_check(&bundle->files[i].mapping, bundle->files[i].path, error))
            return error->status;
    return MLC_OK;
}

void mlc_bundle_close(mlc_bundle *bundle)
{
    for (int64_t i = 0; i < bundle->count; i++)
        mlc_safetensors_close(&bundle->files[i]);
    free(bundle->files);
    *bundle = (mlc_bundle){0};
}

mlc_stored *mlc_bundle_find(const mlc_bundle *bundle, const char *name, const mlc_safetensors **file)
{
    for (int64_t i = 0; i < bundle->count; i++) {
        mlc_stored *found = mlc_safetensors_find(&bundle->files[i], name);
        *file = &bundle->files[i];
        if (found)
            return found;
    }
    return NULL;
}
