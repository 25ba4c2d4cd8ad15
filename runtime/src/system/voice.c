/* voice.c: see voice.h.
 *
 * A pipe or terminal is opened a second time, not to block: the flag belongs to the opening, and the first one is shared with other
 * processes. A socket takes the flag with each message. What can be neither is asked first whether it has room. */
#include "system/voice.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECONDS 2.0

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

mlc_voice mlc_voice_open(void)
{
    mlc_voice voice = {.fd = STDERR_FILENO, .until = now() + SECONDS};
    struct stat status;
    if (fstat(STDERR_FILENO, &status))
        return voice;
    voice.socket = S_ISSOCK(status.st_mode);
    int fd = S_ISFIFO(status.st_mode) || isatty(STDERR_FILENO) ? open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    if (fd < 0)
        return voice;
    voice.fd = fd;
    voice.own = true;
    return voice;
}

/* False: no room before the end of the time. */
static bool wait_for_room(const mlc_voice *voice)
{
    struct pollfd room = {.fd = voice->fd, .events = POLLOUT};
    double left = voice->until - now();
    return poll(&room, 1, left > 0 ? (int)(left * 1e3) : 0) == 1;
}

static ssize_t put(const mlc_voice *voice, const char *text, size_t bytes)
{
    if (voice->socket)
        return send(voice->fd, text, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (!voice->own && !wait_for_room(voice))
        return errno = EAGAIN, -1;
    return write(voice->fd, text, bytes);
}

static void put_all(const mlc_voice *voice, const char *text, size_t bytes)
{
    while (bytes) {
        ssize_t done = put(voice, text, bytes);
        if (done < 0 && errno != EINTR && !(errno == EAGAIN && wait_for_room(voice)))
            return;
        if (done > 0) {
            text += done;
            bytes -= (size_t)done;
        }
    }
}

/* Names of files may hold what a terminal obeys. */
static void show_controls(char *text)
{
    for (; *text; text++)
        if (((unsigned char)*text < ' ' && *text != '\n' && *text != '\t') || *text == 127)
            *text = '?';
}

static void print_list(mlc_voice *voice, const char *format, va_list arguments)
{
    char text[4096];
    int length = vsnprintf(text, sizeof text, format, arguments);
    if (length <= 0)
        return;
    if ((size_t)length >= sizeof text)
        memcpy(text + sizeof text - 5, "...\n", 5);
    show_controls(text);
    put_all(voice, text, strlen(text));
}

void mlc_voice_print(mlc_voice *voice, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_list(voice, format, arguments);
    va_end(arguments);
}

void mlc_voice_close(mlc_voice *voice)
{
    if (voice->own)
        close(voice->fd);
}

void mlc_say(const char *format, ...)
{
    mlc_voice voice = mlc_voice_open();
    va_list arguments;
    va_start(arguments, format);
    print_list(&voice, format, arguments);
    va_end(arguments);
    mlc_voice_close(&voice);
}
