/* voice.h: words to standard error that never hold a run up: where its reader stands still, they are dropped. */
#ifndef MLC_VOICE_H
#define MLC_VOICE_H

#include <stdbool.h>

typedef struct mlc_voice {
    int fd;
    bool own;     /* fd was opened for this voice: it does not block; else it may be anything */
    bool socket;
    double until; /* on the monotonic clock: what has not gone by then is dropped */
} mlc_voice;

/* One thing that is said, in as many prints as it takes; each goes out as it is. Up to 4 KiB a print. Any thread. */
mlc_voice mlc_voice_open(void);
void mlc_voice_print(mlc_voice *voice, const char *format, ...) __attribute__((format(printf, 2, 3)));
void mlc_voice_close(mlc_voice *voice);

/* One print. */
void mlc_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
