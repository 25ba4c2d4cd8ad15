/* near.h: a process keeps to the processors and the memory that are near its GPU. */
#ifndef MLC_NEAR_H
#define MLC_NEAR_H

#include <stdbool.h>

#define MLC_NEAR_DEVICES "/sys/bus/pci/devices"

/* Binds the calling thread, and those that it starts, to the processors near a device of PCI, as far as it may use them, and asks for memory
 * there. place: as "0000:3b:00.0"; devices: the folder that says of each what is near. False: it does not say, or none of them may be
 * used; all stays as it is. */
bool mlc_near_bind(const char *devices, const char *place);

#endif
