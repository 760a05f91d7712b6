/* A stand-in for NVIDIA's library, so that the real Python binding runs where there is no GPU.
 *
 * Every call reads the script named by NVML_STUB again, so a test changes the "driver" while it runs:
 *
 *   gpu <bus> <uuid> <utilisation> <used> <total> <name, may hold blanks>
 *   process <uuid> <compute|graphics> <pid> <bytes, or none>
 *   error <function> <code> [uuid]      the call fails
 *   hang <function>                     the call does not return while this line stands
 *
 * Each attempt to open the library adds a line to NVML_STUB.opened. Devices are listed in the order of the script, which need not be that of their buses. Only what the supervisor calls
 * is here; anything else the binding reports as "function not found".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, MOST = 16, LINE = 256 };

typedef struct { char uuid[96], name[96]; unsigned bus, utilisation; unsigned long long used, total; } Gpu;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; } Pci;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute_instance; } Process;

/* Handles are places in the order in which devices were first seen: they outlive their line in the script. */
static char seen[MOST][96];
static int opened;

static FILE *script(void) {
    const char *path = getenv("NVML_STUB");
    return path ? fopen(path, "r") : NULL;
}

static int gpus(Gpu *out) {
    char line[LINE];
    int count = 0;
    FILE *file = script();
    while (file && count < MOST && fgets(line, sizeof line, file)) {
        Gpu *gpu = &out[count];
        if (sscanf(line, "gpu %u %95s %u %llu %llu %95[^\n]", &gpu->bus, gpu->uuid, &gpu->utilisation, &gpu->used,
                   &gpu->total, gpu->name) == 6)
            count++;
    }
    if (file) fclose(file);
    return count;
}

/* The code the script wants of this call, after hanging for as long as it says. */
static int told(const char *function, const char *uuid) {
    for (;;) {
        char line[LINE], name[96], device[96];
        int code = SUCCESS, found = SUCCESS, hang = 0;
        FILE *file = script();
        while (file && fgets(line, sizeof line, file)) {
            if (sscanf(line, "hang %95s", name) == 1 && !strcmp(name, function)) hang = 1;
            device[0] = 0;
            if (sscanf(line, "error %95s %d %95s", name, &code, device) >= 2 && !strcmp(name, function) &&
                (!device[0] || (uuid && !strcmp(device, uuid))))
                found = code;
        }
        if (file) fclose(file);
        if (!hang) return found != SUCCESS ? found : (opened || strstr(function, "Init") ? SUCCESS : UNINITIALIZED);
        usleep(20000);
    }
}

static int device(void *handle, const char *function, Gpu *out) {
    Gpu all[MOST];
    int count = gpus(all), place = (int)(long)handle - 1;
    int code = told(function, seen[place]);
    if (code) return code;
    for (int i = 0; i < count; i++)
        if (!strcmp(all[i].uuid, seen[place])) { *out = all[i]; return SUCCESS; }
    return 15; /* GPU is lost */
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    char path[LINE];
    FILE *log;
    snprintf(path, sizeof path, "%s.opened", getenv("NVML_STUB"));
    if ((log = fopen(path, "a"))) fputs("opened\n", log), fclose(log);
    int code = told("nvmlInitWithFlags", NULL);
    if (!code) opened = 1;
    return code;
}

int nvmlShutdown(void) {
    int code = told("nvmlShutdown", NULL);
    opened = 0;
    return code;
}

const char *nvmlErrorString(int code) {
    return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : code == 3 ? "Not Supported" : "Unknown Error";
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    Gpu all[MOST];
    *count = (unsigned)gpus(all);
    return told("nvmlDeviceGetCount_v2", NULL);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    Gpu all[MOST];
    int code;
    if ((int)index >= gpus(all)) return INVALID_ARGUMENT;
    code = told("nvmlDeviceGetHandleByIndex_v2", all[index].uuid);
    if (code) return code;
    for (int i = 0; i < MOST; i++) {
        if (!seen[i][0]) strcpy(seen[i], all[index].uuid);
        if (!strcmp(seen[i], all[index].uuid)) { *handle = (void *)(long)(i + 1); return SUCCESS; }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *handle, char *out, unsigned length) {
    Gpu gpu;
    int code = device(handle, "nvmlDeviceGetUUID", &gpu);
    if (!code) snprintf(out, length, "%s", gpu.uuid);
    return code;
}

int nvmlDeviceGetName(void *handle, char *out, unsigned length) {
    Gpu gpu;
    int code = device(handle, "nvmlDeviceGetName", &gpu);
    if (!code) snprintf(out, length, "%s", gpu.name);
    return code;
}

int nvmlDeviceGetPciInfo_v3(void *handle, Pci *out) {
    Gpu gpu;
    int code = device(handle, "nvmlDeviceGetPciInfo_v3", &gpu);
    memset(out, 0, sizeof *out);
    if (!code) out->bus = gpu.bus;
    return code;
}

int nvmlDeviceGetUtilizationRates(void *handle, Utilization *out) {
    Gpu gpu;
    int code = device(handle, "nvmlDeviceGetUtilizationRates", &gpu);
    if (!code) out->gpu = gpu.utilisation, out->memory = 0;
    return code;
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *out) {
    Gpu gpu;
    int code = device(handle, "nvmlDeviceGetMemoryInfo", &gpu);
    if (!code) out->total = gpu.total, out->used = gpu.used, out->free = gpu.total - gpu.used;
    return code;
}

static int processes(void *handle, const char *function, const char *wanted, unsigned *count, Process *out) {
    char line[LINE], uuid[96], kind[32], bytes[32];
    unsigned pid, found = 0;
    Gpu gpu;
    int code = device(handle, function, &gpu);
    FILE *file = code ? NULL : script();
    if (code) return code;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "process %95s %31s %u %31s", uuid, kind, &pid, bytes) != 4) continue;
        if (strcmp(uuid, gpu.uuid) || strcmp(kind, wanted)) continue;
        if (found < *count && out) {
            out[found].pid = pid;
            out[found].used = strcmp(bytes, "none") ? strtoull(bytes, NULL, 10) : ~0ULL; /* NVML_VALUE_NOT_AVAILABLE */
            out[found].instance = out[found].compute_instance = ~0U;
        }
        found++;
    }
    if (file) fclose(file);
    code = found > *count ? INSUFFICIENT_SIZE : SUCCESS;
    *count = found;
    return code;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Process *out) {
    return processes(handle, "nvmlDeviceGetComputeRunningProcesses_v3", "compute", count, out);
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, Process *out) {
    return processes(handle, "nvmlDeviceGetComputeRunningProcesses_v2", "compute", count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, Process *out) {
    return processes(handle, "nvmlDeviceGetGraphicsRunningProcesses_v3", "graphics", count, out);
}
