/* home.c: see home.h. */
#include "system/home.h"

#include "mlc.h"
#include "system/system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK ".mlc-lock"
#define MADE ".mlc-made"
#define PREFIX ".mlc-"
#define SIGNATURE "mlc lock: "
#define HEADING "names that mlc gave for the moment:\n"
#define LOCK_BYTES 400
#define MADE_BYTES (1 << 16)
#define TRIES 20

#ifndef F_OFD_SETLK /* of Linux 3.15; the C library may be older */
#define F_OFD_SETLK 37
#endif

/* ---- random names ---- */

int mlc_home_random(char hex[MLC_RUN_BYTES], mlc_error *error)
{
    uint8_t bytes[16];
    if (!mlc_system_random(bytes, sizeof bytes))
        return mlc_error_system(error, MLC_FAILED, "no random numbers from the kernel");
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    return MLC_OK;
}

static bool is_temporary(const char *name)
{
    size_t prefix = strlen(PREFIX);
    return strlen(name) == prefix + 32 && !strncmp(name, PREFIX, prefix) && strspn(name + prefix, "0123456789abcdef") == 32;
}

/* ---- the directory ---- */

static int make_path(const char *path, mlc_error *error)
{
    char part[MLC_PATH_BYTES];
    int length = snprintf(part, sizeof part, "%s", path);
    if (length >= (int)sizeof part - 2 * MLC_NAME_BYTES) /* of a step, and of a file in it */
        return mlc_error_set(error, MLC_USAGE, "%.200s...: the path is too long", path);
    for (char *slash = strchr(part + 1, '/'); *part && slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(part, 0777);
        *slash = '/';
    }
    if (mkdir(part, 0777) && errno != EEXIST)
        return mlc_error_system(error, MLC_BAD_INPUT, "%s", path);
    return mlc_path_is_directory(part) ? MLC_OK : mlc_error_set(error, MLC_BAD_INPUT, "%s: not a directory", path);
}

/* ---- the lock ---- */

/* Is it a file that begins as ours do, or an empty one of one name? It is written to in place. */
static bool is_own(int fd, const char *start)
{
    char text[64] = "";
    struct stat status;
    if (fstat(fd, &status) || !S_ISREG(status.st_mode))
        return false;
    return status.st_size ? pread(fd, text, sizeof text - 1, 0) >= 0 && !strncmp(text, start, strlen(start)) : status.st_nlink == 1;
}

/* Opens or makes one of our files. What is there under its name and is not ours is left alone: -1. */
static int open_own(const mlc_home *home, const char *name, const char *start, mlc_error *error)
{
    if (!mlc_folder_may_replace(home->folder, name, MADE_BYTES))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s/%s: not a file that mlc made; move it away", home->path, name), -1;
    int fd = openat(home->folder, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (fd < 0)
        return mlc_error_system(error, MLC_BAD_INPUT, "%s: checkpoints cannot be written there: %s", home->path, name), -1;
    if (is_own(fd, start))
        return fd;
    close(fd);
    return mlc_error_set(error, MLC_BAD_INPUT, "%s/%s: not a file that mlc made; move it away", home->path, name), -1;
}

/* Who holds the lock, as it says; printable whatever the file holds. */
static void read_holder(int fd, char text[LOCK_BYTES])
{
    ssize_t bytes = pread(fd, text, LOCK_BYTES - 1, 0);
    text[bytes > 0 ? bytes : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    for (char *c = text; *c; c++)
        *c = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c;
    size_t start = strlen(SIGNATURE);
    bool said = !strncmp(text, SIGNATURE, start) && text[start];
    if (said)
        memmove(text, text + start, strlen(text + start) + 1);
    else
        snprintf(text, LOCK_BYTES, "another program");
}

static int refuse(const mlc_home *home, int fd, mlc_error *error)
{
    char holder[LOCK_BYTES];
    read_holder(fd, holder);
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: in use: %s writes checkpoints there; wait for its end, or give another directory",
                         home->path, holder);
}

/* Is the file still what its name means? Somebody may have removed it before it was locked. */
static bool is_named(const mlc_home *home, int fd)
{
    struct stat held, named;
    return !fstat(fd, &held) && !fstatat(home->folder, LOCK, &named, AT_SYMLINK_NOFOLLOW) && held.st_dev == named.st_dev &&
           held.st_ino == named.st_ino;
}

/* One try. Returns a status; home->lock stays -1 when another try is wanted. */
static int try_lock(mlc_home *home, bool unlocked, bool *again, mlc_error *error)
{
    int fd = open_own(home, LOCK, SIGNATURE, error);
    if (fd < 0)
        return error->status;
    int taken = mlc_file_lock(fd);
    *again = !taken && !is_named(home, fd);
    if (taken < 0 && !unlocked)
        mlc_error_system(error, MLC_BAD_INPUT, "%s: the file system has no locks, so that two programs could write there at once "
                         "(--allow lock goes on without)", home->path);
    if (taken > 0)
        refuse(home, fd, error);
    if (taken || *again)
        close(fd);
    else
        home->lock = fd;
    return error->status;
}

static int lock_home(mlc_home *home, bool unlocked, mlc_error *error)
{
    bool again = true;
    home->lock = -1;
    for (int i = 0; i < TRIES && again; i++)
        if (try_lock(home, unlocked, &again, error))
            return error->status;
    return again ? mlc_error_set(error, MLC_FAILED, "%s: its lock vanishes again and again", home->path) : MLC_OK;
}

bool mlc_home_is(const mlc_home *home, const char *path)
{
    struct stat held, named;
    if (!*home->path || strcmp(home->path, path) || fstat(home->folder, &held) || stat(path, &named))
        return false;
    bool same = held.st_dev == named.st_dev && held.st_ino == named.st_ino;
    return same && (home->lock < 0 || is_named(home, home->lock));
}

void mlc_home_sign(const mlc_home *home, const char *program, const char *run)
{
    char text[LOCK_BYTES], host[128] = "";
    gethostname(host, sizeof host - 1);
    int length = snprintf(text, sizeof text, SIGNATURE "%.120s, process %d on %s%s%.32s\n", program, (int)getpid(), host,
                          *run ? ", run " : "", run);
    if (home->lock >= 0 && pwrite(home->lock, text, (size_t)length, 0) == length) /* on a full disk it stays unsaid */
        (void)!ftruncate(home->lock, length);
}

/* What saves will write or replace must be ours to write: better said now than after the first steps. */
static int check_names(const mlc_home *home, mlc_error *error)
{
    static const char *const NAMES[] = {"latest", "best"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (!mlc_folder_may_replace(home->folder, NAMES[i], MLC_NAMING_BYTES))
            return mlc_error_set(error, MLC_BAD_INPUT, "%s/%s: not a file that mlc made; move it away", home->path, NAMES[i]);
    int made = open_own(home, MADE, HEADING, error);
    if (made >= 0)
        close(made);
    return error->status;
}

int mlc_home_open(mlc_home *home, const char *path, bool unlocked, mlc_error *error)
{
    if (make_path(path, error))
        return error->status;
    home->folder = mlc_folder_open(path, error);
    if (home->folder < 0)
        return error->status;
    snprintf(home->path, sizeof home->path, "%s", path);
    home->lock = -1;
    if (lock_home(home, unlocked, error) || check_names(home, error))
        mlc_home_close(home);
    return error->status;
}

void mlc_home_close(mlc_home *home)
{
    struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    if (!*home->path)
        return;
    if (home->lock >= 0) { /* for a child that was forked has the same description */
        fcntl(home->lock, F_OFD_SETLK, &whole);
        flock(home->lock, LOCK_UN);
        close(home->lock);
    }
    close(home->folder);
    *home = (mlc_home){0};
}

/* ---- temporary names ---- */

int mlc_home_choose(const mlc_home *home, char name[MLC_NAME_BYTES], mlc_error *error)
{
    char hex[MLC_RUN_BYTES], text[MLC_NAME_BYTES + sizeof HEADING];
    if (mlc_home_random(hex, error))
        return error->status;
    int made = open_own(home, MADE, HEADING, error);
    if (made < 0)
        return error->status;
    snprintf(name, MLC_NAME_BYTES, PREFIX "%s", hex);
    off_t end = lseek(made, 0, SEEK_END);
    int length = snprintf(text, sizeof text, "%s%s\n", end ? "" : HEADING, name);
    if (end < 0 || pwrite(made, text, (size_t)length, end) != length || fsync(made))
        mlc_error_system(error, MLC_FAILED, "%s/" MADE ": cannot be written", home->path);
    close(made);
    return error->status;
}

void mlc_home_settle(const mlc_home *home)
{
    struct stat status;
    mlc_error ignored = {0};
    int made = open_own(home, MADE, HEADING, &ignored);
    if (made >= 0 && !fstat(made, &status) && status.st_size > (off_t)strlen(HEADING))
        (void)!ftruncate(made, (off_t)strlen(HEADING));
    if (made >= 0)
        close(made);
}

void mlc_home_each_listed(const mlc_home *home, void (*visit)(void *context, const char *name), void *context)
{
    size_t bytes;
    mlc_error ignored = {0};
    char *text = mlc_folder_text(home->folder, MADE, home->path, MADE_BYTES, &bytes, &ignored);
    for (char *line = text; line && *line;) {
        char *end = line + strcspn(line, "\n");
        bool last = !*end;
        *end = 0;
        if (is_temporary(line))
            visit(context, line);
        line = last ? end : end + 1;
    }
    free(text);
}
