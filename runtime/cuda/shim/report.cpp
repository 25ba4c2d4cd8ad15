/* report.cpp: options, and what was found: each fault once a place in the source, with how often it came. */
#include "shim.h"

#include "mlc_shim.h"

#include <algorithm>
#include <link.h>
#include <map>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <unordered_map>

namespace mlc_shim {

constexpr size_t REPORTS_MAX = 200;

struct Found {
    std::string text;
    uint64_t times;
};

static std::vector<Found> found;
static std::map<std::string, size_t> found_by_place; /* index in `found` */
static std::unordered_map<uint64_t, size_t> found_quickly; /* the same, by a hash of fault, kernel and place */
static bool print = true;

/* ---- options ---- */

static bool order_of(const char *name, Order *order)
{
    static const char *const names[] = {"forward", "reverse", "random", "ahead"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) {
            *order = (Order)i;
            return true;
        }
    return false;
}

static void end_of_process()
{
    if (found.empty())
        return;
    fprintf(stderr, "mlc_shim: %zu fault%s\n", found.size(), found.size() == 1 ? "" : "s");
    fflush(nullptr);
    _exit(66);
}

static Options first_options()
{
    Options first = {Order::FORWARD, 1, (size_t)8 << 30, getenv("MLC_SHIM_APART") != nullptr};
    const char *order = getenv("MLC_SHIM_ORDER"), *seed = getenv("MLC_SHIM_SEED"), *memory_bytes = getenv("MLC_SHIM_MEMORY");
    if (order && !order_of(order, &first.order)) {
        fprintf(stderr, "mlc_shim: MLC_SHIM_ORDER=%s: forward, reverse, random or ahead\n", order);
        _exit(2);
    }
    if (seed)
        first.seed = strtoull(seed, nullptr, 0);
    if (memory_bytes)
        first.memory_bytes = strtoull(memory_bytes, nullptr, 0);
    atexit(end_of_process);
    return first;
}

Options &options()
{
    static Options now = first_options();
    return now;
}

/* Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": any seed is good, 0 too. */
static uint64_t splitmix64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static uint64_t drawn;

uint64_t draw()
{
    return splitmix64(options().seed * 0x9E3779B97F4A7C15u + drawn++);
}

/* ---- places in the source ---- */

struct Search {
    uintptr_t address;
    bool code; /* else constants */
    uintptr_t low, high; /* of the segment */
    uintptr_t base;
    std::string path;
};

static int visit_module(struct dl_phdr_info *info, size_t, void *data)
{
    Search &search = *(Search *)data;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto &segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD || (search.code ? !(segment.p_flags & PF_X) : segment.p_flags & PF_W))
            continue;
        const uintptr_t low = info->dlpi_addr + segment.p_vaddr, high = low + segment.p_memsz;
        if (search.address < low || search.address >= high)
            continue;
        search = {search.address, search.code, low, high, info->dlpi_addr, info->dlpi_name && *info->dlpi_name ? info->dlpi_name : "/proc/self/exe"};
        return 1;
    }
    return 0;
}

bool in_constants(const void *p)
{
    Search search = {(uintptr_t)p, false, 0, 0, 0, {}};
    return dl_iterate_phdr(visit_module, &search) != 0;
}

/* Segments of code that kernels were launched from, the last one at the end: a place is the low half of an address in one of them.
   Another library may have code at the same low half. */
static std::vector<Search> kernel_code;

void knows_kernel(const void *kernel)
{
    Search search = {(uintptr_t)kernel, true, 0, 0, 0, {}};
    for (size_t i = kernel_code.size(); i-- > 0;)
        if (search.address >= kernel_code[i].low && search.address < kernel_code[i].high) {
            std::rotate(kernel_code.begin() + (ptrdiff_t)i, kernel_code.begin() + (ptrdiff_t)i + 1, kernel_code.end());
            return;
        }
    if (dl_iterate_phdr(visit_module, &search))
        kernel_code.push_back(search);
}

static std::string base_name(const std::string &path)
{
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? path : path.substr(slash + 1);
}

/* The chain of inlined places, from the kernel's line inward, without the shim's own wrappers. */
static std::string ask_addr2line(const Search &search, uintptr_t address)
{
    char command[4400], line[4400];
    std::string path = search.path;
    if (path == "/proc/self/exe") { /* the tool's own, otherwise */
        const ssize_t n = readlink("/proc/self/exe", line, sizeof line - 1);
        path = n > 0 ? std::string(line, (size_t)n) : path;
    }
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", path.c_str(), (size_t)(address - search.base) - 1);
    FILE *pipe = popen(command, "r");
    std::string text;
    while (pipe && fgets(line, sizeof line, pipe)) {
        std::string place = base_name(std::string(line, strcspn(line, "\n (")));
        if (place.empty() || place[0] == '?' || place.compare(0, 16, "mlc_cuda_shim.h:") == 0 || place == text)
            continue;
        text = text.empty() ? place : place + " in " + text;
    }
    if (pipe)
        pclose(pipe);
    if (!text.empty())
        return text;
    snprintf(line, sizeof line, "%s+0x%zx", base_name(path).c_str(), (size_t)(address - search.base));
    return line;
}

std::string source_line(uint32_t pc)
{
    static std::map<uintptr_t, std::string> known;
    for (size_t i = kernel_code.size(); pc && i-- > 0;) {
        const Search &segment = kernel_code[i];
        const uintptr_t address = segment.low + (uint32_t)(pc - (uint32_t)segment.low);
        if (address >= segment.high)
            continue;
        const auto at = known.find(address);
        return at != known.end() ? at->second : known[address] = ask_addr2line(segment, address);
    }
    return "a place not known";
}

/* ---- reports ---- */

static uint64_t quick_key(const char *fault, uintptr_t pc)
{
    return splitmix64(pc) ^ splitmix64((uintptr_t)fault) ^ splitmix64(launch_now ? (uintptr_t)launch_now->kernel + 1 : 0);
}

bool reported(const char *fault, uintptr_t pc)
{
    const auto at = found_quickly.find(quick_key(fault, pc));
    if (at == found_quickly.end())
        return false;
    found[at->second].times++;
    return true;
}

static void add(const std::string &place, const std::string &text)
{
    const auto at = found_by_place.find(place);
    if (at != found_by_place.end()) {
        found[at->second].times++;
        return;
    }
    if (found.size() >= REPORTS_MAX)
        return;
    found_by_place[place] = found.size();
    found.push_back({text, 1});
    if (print)
        fprintf(stderr, "mlc_shim: %s\n", text.c_str());
}

static std::string format_list(const char *format, va_list list)
{
    char text[1600];
    vsnprintf(text, sizeof text, format, list);
    return text;
}

static std::string place_of(const uint3 &at)
{
    char text[64];
    if (at.y == 0 && at.z == 0)
        snprintf(text, sizeof text, "%u", at.x);
    else
        snprintf(text, sizeof text, "(%u,%u,%u)", at.x, at.y, at.z);
    return text;
}

void report(const char *fault, const void *address, uintptr_t pc, const char *format, ...)
{
    const std::string kernel = launch_now ? launch_now->name : "";
    const std::string place = std::string(fault) + "|" + kernel + "|" + std::to_string((uint32_t)pc);
    const auto at = found_by_place.find(place);
    if (at != found_by_place.end()) {
        found[at->second].times++;
        return;
    }
    va_list list;
    va_start(list, format);
    const std::string detail = format_list(format, list);
    va_end(list);
    std::string text = std::string(fault) + ": kernel " + kernel;
    if (block)
        text += ", block " + place_of(block->where.block);
    if (current)
        text += ", thread " + place_of(current->where->thread);
    if (pc)
        text += ", " + source_line((uint32_t)pc);
    text += ": " + detail;
    if (address)
        text += " [" + describe(address) + "]";
    add(place, text);
    const auto added = found_by_place.find(place);
    if (added != found_by_place.end())
        found_quickly[quick_key(fault, pc)] = added->second;
}

void report_host(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    const std::string text = format_list(format, list);
    va_end(list);
    add("host|" + text, text);
}

}

using namespace mlc_shim;

int mlc_shim_options(const char *order, uint64_t seed)
{
    if (!order_of(order, &options().order))
        return -1;
    options().seed = seed;
    drawn = 0;
    return 0;
}

void mlc_shim_print(int to_stderr)
{
    print = to_stderr != 0;
}

int mlc_shim_checked(void)
{
    return checked;
}

size_t mlc_shim_report_count(void)
{
    return found.size();
}

const char *mlc_shim_report_text(size_t index)
{
    return index < found.size() ? found[index].text.c_str() : nullptr;
}

void mlc_shim_reports_clear(void)
{
    found.clear();
    found_by_place.clear();
    found_quickly.clear();
}

uint64_t mlc_shim_switches(void)
{
    return switches;
}
