/* digest.h: one hash of all that a run computed. The definition is in mlc.h. */
#ifndef MLC_DIGEST_H
#define MLC_DIGEST_H

#include "session.h"

/* Writes 64 hex digits and a 0 byte. All threads of the session share the hashing; nothing is allocated. */
void mlc_digest(mlc_session *session, char hex[65]);

#endif
