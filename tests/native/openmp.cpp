// The OpenMP runtime of kernels that are compiled with ThreadSanitizer, which does not see what libgomp synchronises: the functions
// that g++ calls for the pragmas in csrc/cpu, made of what it does see. Chunk k of a loop is done by thread k modulo the number of
// threads. Dynamic and guided loops may do that, and as no counter orders the threads, a race is reported whoever comes first.
#include <pthread.h>

#include <thread>
#include <vector>

namespace {

struct Team {
  int threads;
  pthread_barrier_t barrier;
};
struct Worker {
  Team* team;
  int number;
  long next, end, size, stride;  // of its loop: where its next chunk begins, and how far apart its chunks are
};
thread_local Worker worker = {};

void work(Team* team, int number, void (*region)(void*), void* data) {
  const Worker outside = worker;
  worker = {team, number, 0, 0, 0, 0};
  region(data);
  worker = outside;
}

void run(void (*region)(void*), void* data, unsigned threads) {
  Team team = {(int)threads, {}};
  pthread_barrier_init(&team.barrier, nullptr, threads);
  std::vector<std::thread> others;
  for (int k = 1; k < team.threads; ++k) others.emplace_back(work, &team, k, region, data);
  work(&team, 0, region, data);
  for (std::thread& x : others) x.join();
  pthread_barrier_destroy(&team.barrier);
}

bool next(long* from, long* to) {
  Worker& w = worker;
  if (w.next >= w.end) return false;
  *from = w.next;
  *to = w.end - w.next < w.size ? w.end : w.next + w.size;
  w.next += w.stride;
  return true;
}

// step: above 0
bool start(long begin, long end, long step, long chunk, long* from, long* to) {
  const long size = chunk * step;
  worker.next = begin + worker.number * size;
  worker.end = end;
  worker.size = size;
  worker.stride = worker.team->threads * size;
  return next(from, to);
}

}  // namespace

extern "C" {

int omp_get_thread_num() { return worker.number; }
int omp_get_num_threads() { return worker.team ? worker.team->threads : 1; }
void GOMP_parallel(void (*region)(void*), void* data, unsigned threads, unsigned) { run(region, data, threads); }
void GOMP_barrier() { pthread_barrier_wait(&worker.team->barrier); }
void GOMP_loop_end() { GOMP_barrier(); }
void GOMP_loop_end_nowait() {}

// versions of g++ call different ones
#define LOOP(KIND)                                                                                   \
  bool GOMP_loop_##KIND##_start(long begin, long end, long step, long chunk, long* from, long* to) { \
    return start(begin, end, step, chunk, from, to);                                                 \
  }                                                                                                  \
  bool GOMP_loop_##KIND##_next(long* from, long* to) { return next(from, to); }
LOOP(dynamic)
LOOP(guided)
LOOP(nonmonotonic_dynamic)
LOOP(nonmonotonic_guided)
}
