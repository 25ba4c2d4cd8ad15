/* near.c: see near.h. */
#include "system/near.h"

#include <ctype.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PREFERRED 1 /* MPOL_PREFERRED: of set_mempolicy(2) */
#define MOST_NODES 1024
#define WORD (8 * sizeof(unsigned long))

/* The line that a file of a device holds. */
static bool read_line(const char *devices, const char *place, const char *name, char line[4096])
{
    char path[512];
    int length = snprintf(path, sizeof path, "%s/", devices);
    for (const char *c = place; *c && length + 1 < (int)sizeof path; c++)
        path[length++] = (char)tolower((unsigned char)*c);
    snprintf(path + length, sizeof path - (size_t)length, "/%s", name);
    FILE *file = fopen(path, "r");
    bool whole = file && fgets(line, 4096, file);
    if (file)
        fclose(file);
    return whole;
}

/* A list as "0-15,32-47". */
static void parse_list(const char *list, cpu_set_t *set)
{
    CPU_ZERO(set);
    for (const char *at = list; isdigit((unsigned char)*at);) {
        char *end;
        long first = strtol(at, &end, 10), last = first;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        for (long cpu = first; cpu <= last && cpu < CPU_SETSIZE; cpu++)
            CPU_SET((size_t)cpu, set);
        at = *end == ',' ? end + 1 : end;
    }
}

/* Memory of another node is as good where this one has no more. */
static void prefer_node(long node)
{
    unsigned long mask[MOST_NODES / WORD] = {0};
    if (node < 0 || node >= MOST_NODES)
        return;
    mask[(size_t)node / WORD] = 1UL << ((size_t)node % WORD);
    syscall(SYS_set_mempolicy, PREFERRED, mask, (unsigned long)MOST_NODES);
}

bool mlc_near_bind(const char *devices, const char *place)
{
    char line[4096];
    cpu_set_t near, may;
    if (!*place || !read_line(devices, place, "local_cpulist", line) || sched_getaffinity(0, sizeof may, &may))
        return false;
    parse_list(line, &near);
    CPU_AND(&near, &near, &may);
    if (!CPU_COUNT(&near) || sched_setaffinity(0, sizeof near, &near))
        return false;
    if (read_line(devices, place, "numa_node", line))
        prefer_node(strtol(line, NULL, 10));
    return true;
}
