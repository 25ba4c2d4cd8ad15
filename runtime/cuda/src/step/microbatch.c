/* microbatch.c: a compute action is put on the stream by the walk itself (pass.c). */
#include "step/pass.h"
