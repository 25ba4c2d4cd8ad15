/* checkpoint_steps.c: see checkpoint_steps.h. */
#include "checkpoint/checkpoint_steps.h"

#include "mlc.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>


/* ---- state.json ---- */

/* Whether a state.json ends in the checksum of what stands before it. */
static bool state_is_whole(const char *text, size_t bytes)
{
    static const char HEAD[] = "  \"checksum\": \"", TAIL[] = "\"\n}\n";
    char hex[65];
    uint8_t digest[32];
    size_t tail = sizeof HEAD - 1 + 64 + sizeof TAIL - 1;
    if (bytes < tail)
        return false;
    const char *end = text + bytes - tail;
    mlc_sha256 hash;
    mlc_sha256_begin(&hash);
    mlc_sha256_add(&hash, text, bytes - tail);
    mlc_sha256_end(&hash, digest);
    mlc_sha256_hex(digest, hex);
    return !memcmp(end, HEAD, sizeof HEAD - 1) && !memcmp(end + sizeof HEAD - 1, hex, 64) &&
           !memcmp(end + sizeof HEAD - 1 + 64, TAIL, sizeof TAIL - 1);
}

int mlc_state_open(mlc_json *json, int step_folder, const char *path, mlc_error *error)
{
    char what[MLC_PATH_BYTES];
    size_t bytes;
    *json = (mlc_json){0};
    if (mlc_path_join(what, path, "state.json", error))
        return error->status;
    char *text = mlc_folder_text(step_folder, "state.json", path, MLC_STATE_BYTES, &bytes, error);
    if (!text)
        return error->status;
    if (state_is_whole(text, bytes))
        mlc_json_parse(json, text, bytes, what, error);
    else
        mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: its checksum does not match", what);
    free(text);
    return error->status;
}

const char *mlc_state_run(const mlc_json *json)
{
    const char *run = json->count ? mlc_json_string(mlc_json_member(json, &json->nodes[0], "run")) : NULL;
    bool valid = run && strlen(run) == MLC_RUN_BYTES - 1 && strspn(run, "0123456789abcdef") == MLC_RUN_BYTES - 1;
    return valid ? run : MLC_RUN_UNNAMED;
}

const mlc_json_node *mlc_state_files(const mlc_json *json)
{
    const mlc_json_node *files = json->count ? mlc_json_member(json, &json->nodes[0], "files") : NULL;
    return files && files->kind == MLC_JSON_OBJECT ? mlc_json_first(json, files) : NULL;
}

/* Maps the state of a step by name, if it is whole; false: none can be read. So no memory is allocated while a run goes on. */
static bool map_state(mlc_mapping *text, int step, const char *name)
{
    struct stat status;
    mlc_error ignored = {0};
    int fd = mlc_folder_read(step, "state.json", name, &ignored);
    *text = (mlc_mapping){0};
    if (fd < 0)
        return false;
    bool sized = !fstat(fd, &status) && status.st_size > 0 && status.st_size <= MLC_STATE_BYTES;
    bool mapped = sized && !mlc_mapping_map(text, fd, name, &ignored) && text->base;
    close(fd);
    if (mapped && state_is_whole((const char *)text->base, text->bytes))
        return true;
    mlc_mapping_close(text);
    return false;
}

/* What stands behind a line's start in a state, NULL: there is no such line. We wrote it, so its lines are known. */
static const char *find_line(const mlc_mapping *text, const char *start)
{
    const char *found = memmem(text->base, text->bytes, start, strlen(start));
    return found ? found + strlen(start) : NULL;
}

/* ---- steps ---- */

int64_t mlc_step_number(const char *name)
{
    size_t digits = strlen(name) > 5 ? strspn(name + 5, "0123456789") : 0;
    if (strncmp(name, "step-", 5) || digits < 8 || digits > 18)
        return -1;
    const char *rest = name + 5 + digits;
    bool of_run = rest[0] == '-' && strlen(rest) == 9 && strspn(rest + 1, "0123456789abcdef") == 8;
    return !*rest || of_run ? strtoll(name + 5, NULL, 10) : -1;
}

void mlc_step_name(char name[MLC_NAME_BYTES], int64_t step)
{
    snprintf(name, MLC_NAME_BYTES, "step-%08lld", (long long)step);
}

void mlc_step_name_of_run(char name[MLC_NAME_BYTES], int64_t step, const char *run)
{
    snprintf(name, MLC_NAME_BYTES, "step-%08lld-%.8s", (long long)step, run);
}

void mlc_step_run(int folder, const char *name, char run[MLC_RUN_BYTES])
{
    mlc_mapping text;
    int step = mlc_folder_enter(folder, name);
    run[0] = 0;
    if (step < 0)
        return;
    if (map_state(&text, step, name)) {
        const char *found = find_line(&text, "\n  \"run\": \"");
        snprintf(run, MLC_RUN_BYTES, "%.32s", found ? found : MLC_RUN_UNNAMED);
        mlc_mapping_close(&text);
    }
    close(step);
}

typedef struct scan {
    mlc_steps *steps;
    const mlc_step *below; /* only what is older; NULL: everything */
} scan;

static bool is_older(const char *name, int64_t number, const mlc_step *than)
{
    return number != than->step ? number < than->step : strcmp(name, than->name) < 0;
}

/* Puts a name to its place among those listed; the oldest makes room. */
static bool consider(void *context, const char *name)
{
    const scan *of = context;
    mlc_steps *steps = of->steps;
    int64_t number = mlc_step_number(name);
    if (number < 0 || (of->below && !is_older(name, number, of->below)))
        return true;
    int at = steps->count;
    while (at > 0 && !is_older(name, number, &steps->listed[at - 1]))
        at--;
    steps->more |= steps->count == MLC_STEPS_AT_ONCE;
    if (at == MLC_STEPS_AT_ONCE)
        return true;
    steps->count += steps->count < MLC_STEPS_AT_ONCE;
    memmove(&steps->listed[at + 1], &steps->listed[at], (size_t)(steps->count - at - 1) * sizeof *steps->listed);
    steps->listed[at] = (mlc_step){.step = number};
    snprintf(steps->listed[at].name, sizeof steps->listed[at].name, "%s", name);
    return true;
}

bool mlc_steps_next(mlc_steps *steps, mlc_step *step)
{
    bool first = !steps->count;
    if (steps->passed == steps->count && (first || steps->more)) {
        mlc_step last = first ? (mlc_step){0} : steps->listed[steps->count - 1];
        scan of = {steps, first ? NULL : &last};
        steps->count = steps->passed = 0;
        steps->more = false;
        mlc_folder_each(steps->folder, consider, &of);
    }
    if (steps->passed == steps->count)
        return false;
    *step = steps->listed[steps->passed++];
    mlc_step_run(steps->folder, step->name, step->run);
    return true;
}

/* The files of a step that are being removed. */
typedef struct removal {
    int folder;
    mlc_mapping state;
    int failed; /* the errno of the last file that stays, or 0 */
} removal;

static bool remove_listed(void *context, const char *name)
{
    removal *of = context;
    char line[300];
    int length = snprintf(line, sizeof line, "\n    \"%s\": \"", name);
    if (length < (int)sizeof line && find_line(&of->state, line) && unlinkat(of->folder, name, 0))
        of->failed = errno;
    return true;
}

bool mlc_step_remove(int folder, const char *name)
{
    removal of = {.folder = mlc_folder_enter(folder, name)};
    bool whole = of.folder >= 0 && map_state(&of.state, of.folder, name);
    if (whole) {
        mlc_folder_each(of.folder, remove_listed, &of);
        if (!of.failed && unlinkat(of.folder, "state.json", 0))
            of.failed = errno;
        mlc_mapping_close(&of.state);
    }
    if (of.folder >= 0)
        close(of.folder);
    if (!whole || of.failed)
        return errno = whole ? of.failed : ENOTEMPTY, false;
    return !unlinkat(folder, name, AT_REMOVEDIR);
}

/* ---- names of steps ---- */

int mlc_step_named(int folder, const char *file, const char *path, char name[MLC_NAME_BYTES], char *rest, mlc_error *error)
{
    char text[MLC_NAMING_BYTES + 1];
    int fd = mlc_folder_read(folder, file, path, error);
    if (fd < 0)
        return error->status;
    ssize_t bytes = read(fd, text, sizeof text - 1);
    close(fd);
    text[bytes > 0 ? bytes : 0] = 0;
    size_t line = strcspn(text, "\n");
    snprintf(name, MLC_NAME_BYTES, "%.*s", (int)line, text);
    if (rest)
        snprintf(rest, MLC_NAME_BYTES, "%s", text + line + (text[line] != 0));
    if (mlc_step_number(name) < 0)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s/%s: damaged: names no checkpoint", path, file);
    return MLC_OK;
}

int mlc_step_name_it(const mlc_home *home, const char *file, const char *temporary, const char *text, mlc_error *error)
{
    mlc_writer writer;
    char hidden[MLC_NAME_BYTES];
    snprintf(hidden, sizeof hidden, "%s.name", temporary);
    if (!mlc_folder_may_replace(home->folder, file, MLC_NAMING_BYTES))
        return mlc_error_set(error, MLC_FAILED, "%s/%s: not a file that mlc made; move it away", home->path, file);
    if (mlc_folder_create(&writer, home->folder, hidden, home->path, error))
        return error->status;
    mlc_writer_print(&writer, "%s", text);
    if (!mlc_writer_close(&writer, true) && renameat(home->folder, hidden, home->folder, file))
        mlc_error_system(error, MLC_FAILED, "%s/%s", home->path, file);
    if (error->status)
        unlinkat(home->folder, hidden, 0);
    else if (fsync(home->folder))
        mlc_error_system(error, MLC_FAILED, "%s: cannot be synced", home->path);
    return error->status;
}

/* ---- what was left behind ---- */

/* The names that files of checkpoints have. */
static bool is_part(const char *name)
{
    static const char *const PARTS[] = {"state.json", "model.safetensors.index.json", "optimizer.safetensors.index.json",
                                        "model-[0-9]*-of-[0-9]*.safetensors", "optimizer-[0-9]*-of-[0-9]*.safetensors"};
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++)
        if (!fnmatch(PARTS[i], name, 0))
            return true;
    return false;
}

static bool remove_part(void *context, const char *name)
{
    const int *folder = context;
    if (is_part(name))
        unlinkat(*folder, name, 0);
    return true;
}

/* Removes what a state lists, else what is named like the files of a checkpoint that was never finished. */
static void remove_parts(int folder, const char *temporary)
{
    char run[MLC_RUN_BYTES];
    mlc_step_run(folder, temporary, run);
    int step = *run ? -1 : mlc_folder_enter(folder, temporary);
    if (*run)
        mlc_step_remove(folder, temporary);
    if (step < 0)
        return;
    mlc_folder_each(step, remove_part, &step);
    close(step);
}

bool mlc_temporary_keep(int folder, const char *temporary, const char *as, char kept[MLC_NAME_BYTES])
{
    char digits[MLC_RUN_BYTES];
    mlc_error ignored = {0};
    kept[0] = 0;
    if (mlc_home_random(digits, &ignored))
        return false;
    snprintf(kept, MLC_NAME_BYTES, "%.40s.kept-%.8s", as, digits);
    if (!renameat(folder, temporary, folder, kept))
        return true;
    kept[0] = 0;
    return false;
}

void mlc_temporary_remove(int folder, const char *temporary, const char *as, char kept[MLC_NAME_BYTES])
{
    char hidden[MLC_NAME_BYTES];
    struct stat status;
    kept[0] = 0;
    snprintf(hidden, sizeof hidden, "%s.name", temporary);
    unlinkat(folder, hidden, 0);
    remove_parts(folder, temporary);
    bool gone = !unlinkat(folder, temporary, AT_REMOVEDIR) || fstatat(folder, temporary, &status, AT_SYMLINK_NOFOLLOW);
    if (!gone)
        mlc_temporary_keep(folder, temporary, as, kept);
}
