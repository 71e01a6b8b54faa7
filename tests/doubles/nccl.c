// A stand-in for the calls of NCCL that Tandem makes, on host memory, for tests.
//
// Ranks are threads or processes of one machine. A communicator is a folder; what a rank
// contributes to an operation is a file in it, which the others wait for. An operation is done when
// its call returns; one that cannot be done, since a rank left or did not come within the thread's
// patience, leaves the thread's stream hanging, as NCCL does.
//
// As in NCCL, the functions call each other by their public names, and a communicator is laid out as
// its VERSION wants it: where two copies are in one process, the first one is called, and finds the
// communicators of the second one corrupted.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SUCCESS, CUDA_ERROR, SYSTEM_ERROR, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_USAGE,
       REMOTE_ERROR, IN_PROGRESS };
enum { FLOAT32 = 7, BFLOAT16 = 9 };

int ncclCommAbort();
void double_hang(void);
int double_hangs(void);
int double_is_behind(void);

typedef struct {
  char folder[128];
} unique_id;

// The beginning of ncclConfig_t.
typedef struct {
  size_t size;
  unsigned magic, version;
  int blocking;
} config;

typedef struct {
  int version;
  char folder[128];
  int rank, ranks, state, operations, is_finalized;
  int sent[64], received[64];
} communicator;

typedef struct {
  int receives, peer;
  void* elements;
  size_t bytes;
  communicator* comm;
} message;

__thread long double_patience = 60000; // milliseconds
static __thread char last_error[256];
static __thread int in_group, queued;
static __thread message queue[512];

static int fail(int error, const char* text) {
  snprintf(last_error, sizeof last_error, "%s", text);
  return error;
}

static long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text ? atol(text) : otherwise;
}

static char* path(communicator* comm, const char* kind, int a, int b, int c) {
  static __thread char text[256];
  snprintf(text, sizeof text, "%s/%s.%d.%d.%d", comm->folder, kind, a, b, c);
  return text;
}

static void post(char* path, const void* elements, size_t bytes) {
  char part[300];
  snprintf(part, sizeof part, "%s.part", path);
  FILE* file = fopen(part, "wb");
  if (!file) return; // the folder went with its last rank
  fwrite(elements, 1, bytes, file);
  fclose(file);
  rename(part, path);
}

static void leave(communicator* comm) {
  post(path(comm, "gone", comm->rank, 0, 0), "", 0);
  for (int rank = 0; rank < comm->ranks; ++rank)
    if (access(path(comm, "gone", rank, 0, 0), F_OK)) return;
  char command[300];
  snprintf(command, sizeof command, "rm -rf '%s'", comm->folder);
  if (system(command)) return;
}

// Reads what `peer` posts, or leaves the stream hanging.
static int fetch(communicator* comm, int peer, const char* file, void* elements, size_t bytes) {
  char name[256];
  snprintf(name, sizeof name, "%s", file);
  for (long waited = 0; access(name, F_OK); waited += 100) {
    int gone = !access(path(comm, "gone", peer, 0, 0), F_OK) && access(name, F_OK);
    if (gone) comm->state = REMOTE_ERROR;
    if (gone || waited > 1000 * double_patience) {
      double_hang();
      return 0;
    }
    usleep(100);
  }
  FILE* read = fopen(name, "rb");
  size_t found = read ? fread(elements, 1, bytes, read) : 0;
  if (read) fclose(read);
  if (found != bytes) fail(INTERNAL_ERROR, "a rank sent fewer elements than another expects");
  return found == bytes;
}

static size_t size_of(int kind) { return kind == FLOAT32 ? 4 : 2; }

static float to_float(const char* element, int kind) {
  uint32_t bits = 0;
  memcpy(kind == FLOAT32 ? (char*)&bits : (char*)&bits + 2, element, size_of(kind));
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static void from_float(float value, char* element, int kind) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (kind == BFLOAT16) bits += 0x7fff + (bits >> 16 & 1); // to the nearest, ties to even
  memcpy(element, kind == FLOAT32 ? (char*)&bits : (char*)&bits + 2, size_of(kind));
}

int ncclGetVersion(int* version) {
  *version = setting("TANDEM_DOUBLE_VERSION", VERSION);
  return SUCCESS;
}

int ncclGetUniqueId(unique_id* id) {
  static int made;
  const char* place = getenv("TANDEM_DOUBLE_FOLDER");
  memset(id, 0, sizeof *id);
  int number = __sync_fetch_and_add(&made, 1);
  snprintf(id->folder, sizeof id->folder, "%s/nccl-%d-%d", place ? place : "/tmp", getpid(), number);
  return mkdir(id->folder, 0700) ? fail(SYSTEM_ERROR, "no place for a communicator") : SUCCESS;
}

int ncclCommInitRankConfig(communicator** made, int ranks, unique_id id, int rank, config* it) {
  if (it->magic != 0xcafebeef || it->blocking != 0)
    return fail(INVALID_ARGUMENT, "not a config of a non-blocking communicator");
  if (access(id.folder, F_OK)) return fail(SYSTEM_ERROR, "no communicator has this id");
  communicator* comm = *made = calloc(1, sizeof *comm);
  comm->version = VERSION;
  memcpy(comm->folder, id.folder, sizeof id.folder);
  comm->rank = rank, comm->ranks = ranks, comm->state = IN_PROGRESS;
  post(path(comm, "hello", rank, 0, 0), "", 0);
  return IN_PROGRESS;
}

int ncclCommGetAsyncError(communicator* comm, int* state) {
  if (comm->version != VERSION) return fail(INVALID_ARGUMENT, "corrupted comm object");
  int here = 0;
  for (int rank = 0; comm->state == IN_PROGRESS && rank < comm->ranks; ++rank)
    here += !access(path(comm, "hello", rank, 0, 0), F_OK);
  if (here == comm->ranks) comm->state = SUCCESS;
  *state = comm->state;
  return SUCCESS;
}

// What every operation asks for; whether to go on.
static int begins(communicator* comm, int kind, int* result) {
  int state;
  *result = ncclCommGetAsyncError(comm, &state);
  if (*result != SUCCESS) return 0;
  if (kind != FLOAT32 && kind != BFLOAT16) *result = fail(INVALID_ARGUMENT, "an unknown type");
  if (comm->state == IN_PROGRESS) *result = fail(INVALID_USAGE, "the communicator is not ready");
  if (!double_is_behind()) *result = fail(INVALID_USAGE, "the stream waited for no event");
  return *result == SUCCESS && !double_hangs();
}

// All ranks' contributions, one after another; null where the stream hangs now.
static char* all(communicator* comm, const void* mine, size_t bytes) {
  int number = comm->operations++;
  char* gathered = malloc(comm->ranks * bytes + 1);
  post(path(comm, "part", number, comm->rank, 0), mine, bytes);
  for (int rank = 0; rank < comm->ranks; ++rank)
    if (!fetch(comm, rank, path(comm, "part", number, rank, 0), gathered + rank * bytes, bytes)) {
      free(gathered);
      return NULL;
    }
  // All ranks are here, so all are done with the operation before.
  unlink(path(comm, "part", number - 1, comm->rank, 0));
  return gathered;
}

int ncclAllReduce(const void* from, void* to, size_t count, int kind, int operation,
                  communicator* comm, void* stream) {
  (void)operation, (void)stream;
  int result;
  if (!begins(comm, kind, &result)) return result;
  size_t size = size_of(kind);
  char* gathered = all(comm, from, count * size);
  for (size_t i = 0; gathered && i < count; ++i) {
    float sum = 0;
    for (int rank = 0; rank < comm->ranks; ++rank)
      sum += to_float(gathered + (rank * count + i) * size, kind);
    from_float(sum, (char*)to + i * size, kind);
  }
  free(gathered);
  return SUCCESS;
}

int ncclAllGather(const void* from, void* to, size_t count, int kind, communicator* comm,
                  void* stream) {
  (void)stream;
  int result;
  if (!begins(comm, kind, &result)) return result;
  char* gathered = all(comm, from, count * size_of(kind));
  if (gathered) memcpy(to, gathered, comm->ranks * count * size_of(kind));
  free(gathered);
  return SUCCESS;
}

static int enqueue(int receives, const void* elements, size_t count, int kind, int peer,
                   communicator* comm) {
  int result;
  if (!begins(comm, kind, &result)) return result;
  if (!in_group) return fail(INVALID_USAGE, "a message outside a group can wait for ever");
  if (peer >= comm->ranks) return fail(INVALID_ARGUMENT, "no rank has this number");
  queue[queued++] = (message){receives, peer, (void*)elements, count * size_of(kind), comm};
  return SUCCESS;
}

int ncclSend(const void* from, size_t count, int kind, int peer, communicator* comm, void* stream) {
  (void)stream;
  return enqueue(0, from, count, kind, peer, comm);
}

int ncclRecv(void* to, size_t count, int kind, int peer, communicator* comm, void* stream) {
  (void)stream;
  return enqueue(1, to, count, kind, peer, comm);
}

int ncclGroupStart(void) {
  if (in_group) return fail(INVALID_USAGE, "the thread has a group open already");
  in_group = 1;
  queued = 0;
  return SUCCESS;
}

int ncclGroupEnd(void) {
  in_group = 0;
  for (message* it = queue; it < queue + queued; ++it)
    if (!it->receives) {
      int number = it->comm->sent[it->peer]++;
      post(path(it->comm, "message", it->comm->rank, it->peer, number), it->elements, it->bytes);
    }
  for (message* it = queue; it < queue + queued; ++it)
    if (it->receives) {
      int number = it->comm->received[it->peer]++;
      char* file = path(it->comm, "message", it->peer, it->comm->rank, number);
      if (!fetch(it->comm, it->peer, file, it->elements, it->bytes)) break;
      unlink(path(it->comm, "message", it->peer, it->comm->rank, number));
    }
  return IN_PROGRESS;
}

// NCCL waits here for the other ranks, and so does a destruction that no finalization went before.
int ncclCommFinalize(communicator* comm) {
  comm->is_finalized = 1;
  return IN_PROGRESS;
}

int ncclCommDestroy(communicator* comm) {
  if (!comm->is_finalized) sleep(30);
  return ncclCommAbort(comm);
}

int ncclCommAbort(communicator* comm) {
  leave(comm);
  free(comm);
  return SUCCESS;
}

const char* ncclGetErrorString(int error) {
  static const char* texts[] = {"no error", "unhandled cuda error", "unhandled system error",
                                "internal error", "invalid argument", "invalid usage",
                                "remote process exited or there was a network error",
                                "NCCL operation in progress"};
  return error >= 0 && error < 8 ? texts[error] : "unknown result code";
}

const char* ncclGetLastError(communicator* comm) {
  (void)comm;
  return last_error;
}
