// A stand-in for the calls of CUDA's driver that Tandem makes, on host memory, for tests.
//
// There is no GPU: each thread has one stream, and work is done when its call returns, unless
// nccl.c leaves the thread's stream hanging.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_DEVICE = 100, NOT_READY = 600 };

typedef struct {
  int recorded, hanging;
} event;

static __thread int hanging; // an operation on this thread's stream never ends
static __thread int behind;  // this thread's stream has waited for what was computed before

// For nccl.c.
void double_hang(void) { hanging = 1; }
int double_hangs(void) { return hanging; }
int double_is_behind(void) { return behind; }

static long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text ? atol(text) : otherwise;
}

static int gpus(void) { return setting("TANDEM_DOUBLE_GPUS", 8); }

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : gpus() ? SUCCESS : NO_DEVICE; }

int cuDriverGetVersion(int* version) {
  *version = setting("TANDEM_DOUBLE_DRIVER", 13000);
  return SUCCESS;
}

int cuDeviceGetCount(int* count) {
  *count = gpus();
  return SUCCESS;
}

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal < gpus() ? SUCCESS : NO_DEVICE;
}

// As if each rank had the GPU of its number.
int cuDeviceGetUuid_v2(char* uuid, int device) {
  const char* rank = getenv("TANDEM_DOUBLE_ONE_GPU") ? NULL : getenv("OMPI_COMM_WORLD_RANK");
  memset(uuid, 0, 16);
  snprintf(uuid, 16, "%d-%s", device, rank ? rank : "");
  return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  static int contexts[64];
  *context = &contexts[device];
  return SUCCESS;
}

int cuCtxSetCurrent(void* context) { return context ? SUCCESS : INVALID_VALUE; }

int cuEventCreate(event** made, unsigned flags) {
  (void)flags;
  *made = calloc(1, sizeof(event));
  return SUCCESS;
}

int cuEventRecord(event* it, void* stream) {
  (void)stream;
  it->recorded = 1;
  it->hanging = hanging;
  return SUCCESS;
}

// What is computed behind the default stream's wait for the other has to be waited for by that anew.
int cuStreamWaitEvent(void* stream, event* it, unsigned flags) {
  (void)flags;
  behind = stream && it->recorded;
  return it->recorded ? SUCCESS : INVALID_VALUE;
}

int cuEventQuery(event* it) { return it->hanging ? NOT_READY : SUCCESS; }

int cuEventDestroy_v2(event* it) {
  free(it);
  return SUCCESS;
}

int cuGetErrorString(int error, const char** text) {
  *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : "invalid argument";
  return SUCCESS;
}
