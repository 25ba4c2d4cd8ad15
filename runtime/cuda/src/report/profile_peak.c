/* profile_peak.c: see profile.h. What threads of the host can do is no measure of a device. */
#include "report/profile.h"

double mlc_profile_peak(const mlc_rank *rank)
{
    (void)rank;
    return 0;
}
