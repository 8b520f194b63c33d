#include "core/base/sigbus.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "llama4/engine.h"

enum { MAX_RANGES = 4096, MAX_PATH_BYTES = 240 };

/* Slots are never freed, so that the handler can walk them while another thread opens or closes a file. */
struct range {
    _Atomic uintptr_t start; /* 0: free */
    uintptr_t end;
    char path[MAX_PATH_BYTES];
};

static struct range ranges[MAX_RANGES];
static atomic_int n_ranges; /* slots ever used */
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;
static volatile sig_atomic_t fault_exit_status;

void sigbus_watch(const void *start, size_t size_bytes, const char *path) {
    size_t len = strlen(path);
    if (len >= MAX_PATH_BYTES)
        path += len - (MAX_PATH_BYTES - 1);
    pthread_mutex_lock(&ranges_lock);
    int slot = 0, n = atomic_load(&n_ranges);
    while (slot < n && atomic_load(&ranges[slot].start) != 0)
        slot++;
    if (slot < MAX_RANGES) {
        struct range *range = &ranges[slot];
        range->end = (uintptr_t)start + size_bytes;
        strcpy(range->path, path);
        atomic_store(&range->start, (uintptr_t)start); /* last: this is what publishes the slot */
        if (slot == n)
            atomic_store(&n_ranges, n + 1);
    }
    pthread_mutex_unlock(&ranges_lock);
}

void sigbus_unwatch(const void *start) {
    pthread_mutex_lock(&ranges_lock);
    int n = atomic_load(&n_ranges);
    for (int slot = 0; slot < n; slot++)
        if (atomic_load(&ranges[slot].start) == (uintptr_t)start)
            atomic_store(&ranges[slot].start, 0);
    pthread_mutex_unlock(&ranges_lock);
}

static void write_text(const char *text) {
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written; /* nowhere left to complain to */
}

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    uintptr_t address = (uintptr_t)info->si_addr;
    int n = atomic_load(&n_ranges);
    for (int slot = 0; slot < n; slot++) {
        uintptr_t start = atomic_load(&ranges[slot].start);
        if (start == 0 || address < start || address >= ranges[slot].end)
            continue;
        write_text("error: ");
        write_text(ranges[slot].path);
        write_text(": truncated, or no longer readable, while in use\n");
        _exit(fault_exit_status);
    }
    /* Not ours: back to the default action, which the faulting instruction will meet when it is tried again. */
    signal(signal_number, SIG_DFL);
}

int l4_install_fault_handler(int exit_status) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    fault_exit_status = exit_status;
    return sigaction(SIGBUS, &action, NULL) == 0 ? 0 : L4_E_INTERNAL;
}
