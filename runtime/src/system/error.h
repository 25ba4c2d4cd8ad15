/* error.h: how a failure travels: a status that is also the exit code, and one sentence. Nothing prints or exits. */
#ifndef MLC_ERROR_H
#define MLC_ERROR_H

typedef struct mlc_error {
    int status; /* enum mlc_status; 0: no error */
    char text[1500];
} mlc_error;

/* Records an error unless one is recorded already (the first one is the cause). Returns error->status. */
int mlc_error_set(mlc_error *error, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same, with ": " and the text of errno at the end. MLC_BAD_INPUT becomes MLC_FAILED where errno says that the machine lacks something
 * (memory, descriptors, room on a disk) or that a disk failed. */
int mlc_error_system(mlc_error *error, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
