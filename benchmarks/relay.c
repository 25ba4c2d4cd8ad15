/* relay.c: a slow, lossy cable between network namespaces: one TUN device in each, and this process between them.
 *
 *   cc -O2 -o relay relay.c
 *   relay DEVICE DELAY_US LOSS SEED NAMESPACE=ADDRESS...
 *
 * creates DEVICE (layer 3, no packet information) in each named namespace (`ip netns`), then hands every IPv4 packet read from one
 * device to the device whose ADDRESS is its destination, DELAY_US microseconds later. The delay is constant, so packets keep their
 * order and wait in one queue. LOSS in [0, 1] is the part of packets lost: the n-th packet from one port to another is lost or not
 * by a hash of (SEED, from, to, n), so that the pattern of each direction does not depend on timing.
 *
 * Standard input takes one line a command and answers each with one line of counts, "forwarded F lost L cut C overflow O":
 *
 *   110...   one digit a port: 0 cuts its cable (nothing passes it, what is under way is lost), 1 restores it
 *   (empty)  only the counts
 *
 * The first line of output is such an answer too: the devices exist then, still without addresses. End of input ends the process,
 * and the devices with it. It needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN), exits 1 with a message when something is refused.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum {
    PORTS = 64,
    QUEUE = 16384,      /* packets under way, a power of two; more are lost as in a full router */
    PACKET_BYTES = 2048, /* above any MTU set here */
    BURST = 64,         /* packets read from one port before the next has its turn */
    DESTINATION = 16    /* byte offset of the destination address in an IPv4 header */
};

struct port {
    int device;
    uint32_t address; /* network byte order */
    int whole;        /* 0: its cable is cut */
    uint64_t sent[PORTS];
};

struct packet {
    int64_t due_ns;
    int from;
    int to;
    size_t bytes;
    unsigned char body[PACKET_BYTES];
};

static struct port ports[PORTS];
static int port_count;
static struct packet queue[QUEUE];
static uint64_t queue_head, queue_tail; /* head <= tail; their difference is the number of packets under way */
static uint64_t forwarded, lost, stopped, overflown;

static int64_t delay_ns;
static uint64_t loss_limit; /* a packet is lost when the upper 32 bits of its hash are below this */
static uint64_t seed;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The descriptor of a device created in `space`; this process is back in the namespace `home` afterwards. */
static int open_device(const char *name, const char *space, int home)
{
    char path[256];
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(path, sizeof path, "/run/netns/%s", space);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    int there = open(path, O_RDONLY | O_CLOEXEC);
    if (there < 0 || setns(there, CLONE_NEWNET) != 0)
        fail(path);
    close(there);
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (device < 0 || ioctl(device, TUNSETIFF, &request) != 0)
        fail("/dev/net/tun");
    if (setns(home, CLONE_NEWNET) != 0)
        fail("/proc/self/ns/net");
    return device;
}

static void open_port(const char *device, char *argument, int home)
{
    char *equals = strchr(argument, '=');
    if (!equals || port_count == PORTS || inet_pton(AF_INET, equals + 1, &ports[port_count].address) != 1) {
        fprintf(stderr, "relay: %s: not NAMESPACE=ADDRESS, or one too many\n", argument);
        exit(1);
    }
    *equals = 0;
    ports[port_count].device = open_device(device, argument, home);
    ports[port_count].whole = 1;
    port_count++;
}

/* The port of the packet's destination, or -1. */
static int target_of(const unsigned char *body, size_t bytes)
{
    uint32_t address;
    if (bytes < 20 || body[0] >> 4 != 4)
        return -1;
    memcpy(&address, body + DESTINATION, sizeof address);
    for (int i = 0; i < port_count; i++)
        if (ports[i].address == address)
            return i;
    return -1;
}

static int is_lost(int from, int to)
{
    uint64_t pair = mix(seed ^ mix((uint64_t)from * PORTS + (uint64_t)to));
    return mix(pair + ports[from].sent[to]++) >> 32 < loss_limit;
}

/* Reads what waits at a port into the queue. */
static void accept_packets(int from)
{
    for (int i = 0; i < BURST; i++) {
        if (queue_tail - queue_head == QUEUE) {
            unsigned char body[PACKET_BYTES];
            if (read(ports[from].device, body, sizeof body) < 0)
                return;
            overflown++;
            continue;
        }
        struct packet *packet = &queue[queue_tail % QUEUE];
        ssize_t bytes = read(ports[from].device, packet->body, sizeof packet->body);
        if (bytes < 0)
            return;
        int to = target_of(packet->body, (size_t)bytes);
        if (to < 0)
            continue;
        if (is_lost(from, to)) {
            lost++;
            continue;
        }
        packet->due_ns = now_ns() + delay_ns;
        packet->from = from;
        packet->to = to;
        packet->bytes = (size_t)bytes;
        queue_tail++;
    }
}

/* Hands over every packet whose time has come. */
static void deliver_packets(void)
{
    while (queue_head != queue_tail) {
        struct packet *packet = &queue[queue_head % QUEUE];
        if (packet->due_ns > now_ns())
            return;
        queue_head++;
        if (!ports[packet->from].whole || !ports[packet->to].whole)
            stopped++;
        else if (write(ports[packet->to].device, packet->body, packet->bytes) == (ssize_t)packet->bytes)
            forwarded++;
        else
            overflown++;
    }
}

static void answer(void)
{
    printf("forwarded %llu lost %llu cut %llu overflow %llu\n", (unsigned long long)forwarded, (unsigned long long)lost,
           (unsigned long long)stopped, (unsigned long long)overflown);
    fflush(stdout);
}

/* Obeys one line of standard input; 0 at its end. */
static int obey(void)
{
    static char line[PORTS + 2];
    static size_t length;
    char byte;
    if (read(STDIN_FILENO, &byte, 1) != 1)
        return 0;
    if (byte != '\n') {
        if (length < PORTS)
            line[length++] = byte;
        return 1;
    }
    for (size_t i = 0; i < length && i < (size_t)port_count; i++)
        ports[i].whole = line[i] == '1';
    length = 0;
    answer();
    return 1;
}

static void relay(void)
{
    struct pollfd waits[PORTS + 1];
    for (int i = 0; i < port_count; i++)
        waits[i] = (struct pollfd){.fd = ports[i].device, .events = POLLIN};
    waits[port_count] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    for (;;) {
        int64_t wait_ns = queue_head == queue_tail ? 0 : queue[queue_head % QUEUE].due_ns - now_ns();
        struct timespec until = {.tv_sec = wait_ns > 0 ? wait_ns / 1000000000 : 0, .tv_nsec = wait_ns > 0 ? wait_ns % 1000000000 : 0};
        if (ppoll(waits, (nfds_t)port_count + 1, queue_head == queue_tail ? NULL : &until, NULL) < 0)
            fail("ppoll");
        deliver_packets();
        for (int i = 0; i < port_count; i++)
            if (waits[i].revents & POLLIN)
                accept_packets(i);
        if (waits[port_count].revents && !obey())
            return;
    }
}

int main(int count, char **arguments)
{
    if (count < 6) {
        fprintf(stderr, "usage: relay DEVICE DELAY_US LOSS SEED NAMESPACE=ADDRESS...\n");
        return 2;
    }
    delay_ns = strtoll(arguments[2], NULL, 10) * 1000;
    loss_limit = (uint64_t)(strtod(arguments[3], NULL) * 4294967296.0);
    seed = strtoull(arguments[4], NULL, 10);
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0)
        fail("/proc/self/ns/net");
    for (int i = 5; i < count; i++)
        open_port(arguments[1], arguments[i], home);
    answer();
    relay();
    return 0;
}
