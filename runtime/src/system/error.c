/* error.c: see error.h. */
#include "system/error.h"

#include "mlc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

int mlc_error_set(mlc_error *error, int status, const char *format, ...)
{
    if (error->status)
        return error->status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    error->status = status;
    return status;
}

/* What is no fault of the file that was asked for. */
static bool is_of_machine(int code)
{
    static const int CODES[] = {EMFILE, ENFILE, ENOMEM, EIO, ENOSPC, EDQUOT, EFBIG, EAGAIN, ESTALE};
    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++)
        if (code == CODES[i])
            return true;
    return false;
}

int mlc_error_system(mlc_error *error, int status, const char *format, ...)
{
    int code = errno;
    if (status == MLC_BAD_INPUT && is_of_machine(code))
        status = MLC_FAILED;
    if (error->status)
        return error->status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    size_t used = strlen(error->text);
    snprintf(error->text + used, sizeof error->text - used, ": %s", strerror(code));
    error->status = status;
    return status;
}
