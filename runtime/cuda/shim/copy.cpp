/* copy.cpp: cp.async ("Data Movement and Conversion Instructions: cp.async"). The bytes land at the latest legal moment: when the
 * thread that copies waits for their group. Until then the place is poison, and in checked builds whoever touches it is reported. */
#include "shim.h"

#include <string.h>

namespace mlc_shim {

void copy_async(void *shared, const void *global, int size, int bytes)
{
    const uintptr_t pc = MLC_CALLER;
    if ((uintptr_t)shared % (unsigned)size || (uintptr_t)global % (unsigned)size)
        report("misaligned", (uintptr_t)shared % (unsigned)size ? shared : global, pc, "an async copy of %d bytes", size);
    if (bytes < 0 || bytes > size) {
        report("wrong address", shared, pc, "an async copy of %d bytes reads %d", size, bytes);
        return;
    }
    if (!in_shared(shared) || (bytes > 0 && !in_device(global))) {
        report("wrong address", in_shared(shared) ? global : shared, pc, "an async copy goes from global to shared memory");
        return;
    }
    if (bytes > 0)
        touch(global, (size_t)bytes, READ, pc);
    touch(shared, (size_t)size, WRITE, pc);
    mark_pending(shared, (size_t)size, pc);
    memset(shared, 0xFF, (size_t)size);
    current->open.push_back({shared, global, size, bytes, pc});
}

void copy_commit()
{
    current->groups.push_back(std::move(current->open));
    current->open.clear();
}

static void land(const Copy &copy)
{
    if (copy.bytes > 0)
        touch(copy.from, (size_t)copy.bytes, READ, copy.pc);
    mark(copy.to, (size_t)copy.size, KEY_HOST);
    touch(copy.to, (size_t)copy.size, WRITE, copy.pc);
    memset(copy.to, 0, (size_t)copy.size);
    memcpy(copy.to, copy.from, (size_t)copy.bytes);
}

void copy_wait(int pending)
{
    while (current->groups.size() > (size_t)pending) {
        for (const Copy &copy : current->groups.front())
            land(copy);
        current->groups.pop_front();
    }
}

void end_of_thread_copies(Thread &thread)
{
    for (const auto &group : thread.groups)
        if (!group.empty())
            report("missing wait", group[0].to, group[0].pc, "the thread ends and an async copy of its was never waited for");
    if (!thread.open.empty())
        report("missing wait", thread.open[0].to, thread.open[0].pc, "the thread ends and an async copy of its was never committed");
}

}
