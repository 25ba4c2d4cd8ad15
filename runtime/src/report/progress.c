/* progress.c: see progress.h. */
#include "report/progress.h"

#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAWN_NANOSECONDS INT64_C(100000000)  /* on a terminal: at most ten lines a second */
#define PLAIN_NANOSECONDS INT64_C(30000000000) /* elsewhere: one in half a minute */
#define LINE_BYTES 512

/* Where lines go: a terminal or pipe is opened once more, so that writing to it need not wait and nothing changes for those who share
 * it. Where that is not allowed, and for files, stderr itself. */
static int open_again(void)
{
    struct stat kind;
    bool may_wait = !fstat(STDERR_FILENO, &kind) && (S_ISCHR(kind.st_mode) || S_ISFIFO(kind.st_mode));
    int fd = may_wait ? open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    return fd < 0 ? STDERR_FILENO : fd;
}

void mlc_progress_open(mlc_progress *progress, bool silent, int64_t now)
{
    const char *kind = getenv("TERM");
    bool draws = isatty(STDERR_FILENO) && kind && *kind && strcmp(kind, "dumb");
    *progress = (mlc_progress){.fd = silent ? -1 : open_again(), .terminal = draws, .said_at = draws ? now - DRAWN_NANOSECONDS : now};
}

void mlc_progress_close(mlc_progress *progress)
{
    mlc_progress_settle(progress);
    if (progress->fd > STDERR_FILENO)
        close(progress->fd);
    progress->fd = -1;
}

bool mlc_progress_is_due(const mlc_progress *progress, const mlc_progress_state *state, int64_t now)
{
    if (progress->fd < 0)
        return false;
    if (progress->terminal)
        return state->step == state->steps || now - progress->said_at >= DRAWN_NANOSECONDS;
    return now - progress->said_at >= PLAIN_NANOSECONDS;
}

/* Adds a part if the line stays shorter than the width. */
static bool add(char *text, size_t width, const char *part)
{
    if (strlen(text) + strlen(part) >= width)
        return false;
    strcat(text, part);
    return true;
}

int mlc_progress_text(char *text, size_t size, int width, const mlc_progress_state *state)
{
    char steps[64], loss[48], rate[64], left[64];
    long long wait = state->seconds < 1e15 ? (long long)ceil(state->seconds) : 0;
    size_t room = (size_t)width < size ? (size_t)width : size;
    snprintf(steps, sizeof steps, "%lld/%lld steps", (long long)state->step, (long long)state->steps);
    snprintf(loss, sizeof loss, "  loss %.*f", fabs(state->loss) < 1e9 ? 4 : 0, fabs(state->loss) < 1e30 ? state->loss : 0);
    snprintf(rate, sizeof rate, "  %.0f %s/s", state->per_second, state->unit);
    snprintf(left, sizeof left, "  %lld:%02lld:%02lld left", wait / 3600, wait / 60 % 60, wait % 60);
    *text = 0;
    if (!add(text, room, steps))
        snprintf(text, room, "%lld", (long long)state->step);
    else if (add(text, room, loss) && strlen(text) + strlen(rate) + strlen(left) < room)
        strcat(strcat(text, rate), left);
    else
        add(text, room, left);
    return (int)strlen(text);
}

/* The columns of the terminal. Asked each time: it may have changed. */
static int columns(void)
{
    struct winsize size;
    if (!ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col)
        return size.ws_col;
    const char *given = getenv("COLUMNS");
    long wide = given ? strtol(given, NULL, 10) : 0;
    return wide > 0 && wide < 10000 ? (int)wide : 80;
}

/* Writes if that does not wait; what does not fit or fails is left: a line of progress is not worth a run. */
static void write_ready(const mlc_progress *progress, const char *text, size_t bytes)
{
    struct pollfd out = {.fd = progress->fd, .events = POLLOUT};
    if (poll(&out, 1, 0) == 1 && out.revents == POLLOUT && write(progress->fd, text, bytes) < 0)
        return;
}

/* Back to the first column of what stands there: a terminal that became narrower has broken the line into several. */
static int take_back(char *text, size_t size, int drawn, int width)
{
    int above = drawn > 0 ? (drawn - 1) / width : 0;
    return above ? snprintf(text, size, "\r\033[%dA\033[J", above) : snprintf(text, size, "\r");
}

void mlc_progress_show(mlc_progress *progress, const mlc_progress_state *state, int64_t now)
{
    char text[LINE_BYTES];
    int width = progress->terminal ? columns() : 200, length = 0;
    width = width < 200 ? width : 200;
    if (progress->terminal)
        length = take_back(text, sizeof text, progress->drawn, width);
    int drawn = mlc_progress_text(text + length, sizeof text - (size_t)length, width, state);
    length += drawn;
    length += snprintf(text + length, sizeof text - (size_t)length, progress->terminal ? "\033[K" : "\n");
    write_ready(progress, text, (size_t)length);
    progress->drawn = progress->terminal ? drawn : 0;
    progress->said_at = now;
}

void mlc_progress_settle(mlc_progress *progress)
{
    if (progress->drawn)
        write_ready(progress, "\n", 1);
    progress->drawn = 0;
}
