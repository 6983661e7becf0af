// basis: Gram-Schmidt, twice, of a few vectors per sample, and its gradient; ops/basis.py has the same in torch.
// One warp per sample. Residuals are stored nowhere: they follow from the vectors and the projections removed so far, by
// the same operations with the same bits in every sweep, so the vectors may be of any width and stay in the first cache.
#include <float.h>
#include <math.h>
#include "cuda/element.h"
#include "cuda/launch.h"

namespace {
constexpr int LANES = 32, N = LARGEST_SET;
constexpr double NEGLIGIBLE = 8.0;  // as in ops/basis.py

// What numbers are computed in, and what directions and lengths are returned in.
template <class X> struct Types {
  using Exact = float;
  using Out = float;
};
template <> struct Types<float> {
  using Exact = double;
  using Out = float;
};
template <> struct Types<double> {
  using Exact = double;
  using Out = double;
};

// Named products, so that no compiler fuses them in one sweep and not in another.
CT_HD double vfma(double x, double y, double z) { return fma(x, y, z); }
CT_HD float vfma(float x, float y, float z) { return fmaf(x, y, z); }
CT_HD double root(double x) { return sqrt(x); }
CT_HD float root(float x) { return sqrtf(x); }
CT_HD double rounding(double) { return DBL_EPSILON; }
CT_HD float rounding(float) { return FLT_EPSILON; }

template <class A> struct Found {
  A part[N][LANES + 1];   // + 1: values of a lane meet different banks
  A projection[2][N][N];  // <residual of s before the round, e_u>, u < s
  A negligible[N], length[N], inverse[N];
};

// The sweeps of vector S: its projections and norm, the projections left over, the norm of what remains.
// A backward pass adds one over the gradient of direction S.
enum Sweep { kProject, kProjectAgain, kLength, kAlign };

template <class X> struct Sets {
  using A = typename Types<X>::Exact;
  using O = typename Types<X>::Out;
  static constexpr int threads = LANES, WIDTH = 16 / sizeof(X);
  static constexpr int factor_phases = 2 + 6 * (N - 1);
  VectorSets x;
  bool vector;

  CT_HD const X* at(int s, int64_t sample) const { return (const X*)x.vector[s] + sample * x.stride[s]; }
  CT_HD int64_t out_at(int s, int64_t sample) const { return (s * x.samples + sample) * x.width; }
  CT_HD int count_at(int k) const { return x.width - k < WIDTH ? x.width - k : WIDTH; }

  template <class T> CT_HD void store(T* to, const A* from, int count) const {
    Pack<T, WIDTH> rounded;
    CT_UNROLL for (int c = 0; c < WIDTH; ++c) narrow(from[c], rounded.v[c]);
    rounded.store(to, count, vector);
  }

  template <int P> CT_HD void factor(const Place& at, Found<A>& s) const {
    constexpr int S = P < 2 ? 0 : 1 + (P - 2) / 6;
    constexpr Sweep sweep = P < 2 ? kProject : (Sweep)((P - 2) % 6 / 2);
    if (S >= x.size) return;
    if constexpr (P % 2 == 0) walk<S, sweep>(at, s);
    else if (at.thread < values(S, sweep)) record<S, sweep>(at.thread, fold(s.part[at.thread]), s);
  }

  static CT_HD constexpr int values(int s, Sweep sweep) { return sweep == kLength ? 1 : sweep == kProjectAgain ? s : s + 1; }

  // From elements of a vector to those of its residual after some rounds of removing the directions before it.
  static CT_HD void remove(const Found<A>& s, int index, A* r, const A (*e)[WIDTH], int rounds) {
    CT_UNROLL for (int round = 0; round < rounds; ++round) CT_UNROLL for (int u = 0; u < index; ++u) {
      const A projection = s.projection[round][index][u];
      CT_UNROLL for (int c = 0; c < WIDTH; ++c) r[c] = vfma(-projection, e[u][c], r[c]);
    }
  }
  template <int COUNT> static CT_HD void directions(const Found<A>& s, const Pack<X, WIDTH>* from, A (*e)[WIDTH]) {
    CT_UNROLL for (int u = 0; u < COUNT; ++u) {
      CT_UNROLL for (int c = 0; c < WIDTH; ++c) e[u][c] = (A)widen(from[u].v[c]);
      remove(s, u, e[u], e, 2);
      const A inverse = s.inverse[u];
      CT_UNROLL for (int c = 0; c < WIDTH; ++c) e[u][c] *= inverse;
    }
  }

  template <int S, Sweep SWEEP> CT_HD void walk(const Place& place, Found<A>& s) const {
    A sum[S + 1] = {};
    for (int k = place.thread * WIDTH; k < x.width; k += LANES * WIDTH) {
      const int count = count_at(k);
      Pack<X, WIDTH> from[S + 1];
      CT_UNROLL for (int u = 0; u <= S; ++u) from[u].load(at(u, place.x) + k, count, vector);
      A e[S + 1][WIDTH], r[WIDTH];
      directions<S + (SWEEP == kAlign)>(s, from, e);
      if constexpr (SWEEP == kAlign) {
        Pack<O, WIDTH> grad;
        grad.load((const O*)x.directions + out_at(S, place.x) + k, count, vector);
        CT_UNROLL for (int c = 0; c < WIDTH; ++c) r[c] = (A)grad.v[c];
      } else {
        CT_UNROLL for (int c = 0; c < WIDTH; ++c) r[c] = (A)widen(from[S].v[c]);
        remove(s, S, r, e, SWEEP);
      }
      add<S, SWEEP>(r, e, count, sum);
    }
    CT_UNROLL for (int v = 0; v < values(S, SWEEP); ++v) s.part[v][place.thread] = sum[v];
  }

  // Elements beyond the vector are left out: as zeros they become NaN times an infinite inverse.
  template <int S, Sweep SWEEP> static CT_HD void add(const A* r, const A (*e)[WIDTH], int count, A* sum) {
    CT_UNROLL for (int c = 0; c < WIDTH; ++c) {
      if (c >= count) continue;
      if constexpr (SWEEP == kLength) sum[0] = vfma(r[c], r[c], sum[0]);
      else CT_UNROLL for (int u = 0; u < S; ++u) sum[u] = vfma(r[c], e[u][c], sum[u]);
      if constexpr (SWEEP == kProject) sum[S] = vfma(r[c], r[c], sum[S]);
      if constexpr (SWEEP == kAlign) sum[S] = vfma(r[c], e[S][c], sum[S]);
    }
  }

  // The sum of the lanes' parts, in four chains.
  static CT_HD A fold(const A* part) {
    A total[4] = {part[0], part[1], part[2], part[3]};
    CT_UNROLL for (int k = 4; k < LANES; k += 4) CT_UNROLL for (int c = 0; c < 4; ++c) total[c] += part[k + c];
    return (total[0] + total[1]) + (total[2] + total[3]);
  }

  template <int S, Sweep SWEEP> static CT_HD void record(int value, A total, Found<A>& s) {
    if (SWEEP != kLength && value < S) s.projection[SWEEP][S][value] = total;
    if (SWEEP == kProject && value == S) {
      const A limit = A(NEGLIGIBLE) * rounding(total) * root(total);
      s.negligible[S] = limit == A(INFINITY) ? A(-1) : limit;  // overflow is no linear dependence
    }
    if (value == S * (SWEEP == kProject) && (SWEEP == kLength || S == 0)) set_length<S>(root(total), s);
  }
  template <int S> static CT_HD void set_length(A length, Found<A>& s) {
    if (length <= s.negligible[S]) length = A(0);
    s.length[S] = length;
    s.inverse[S] = length == A(0) ? A(0) : A(1) / length;
  }
};

template <class X> struct Basis : Sets<X> {
  using Base = Sets<X>;
  using typename Base::A;
  using typename Base::O;
  using Shared = Found<A>;
  static constexpr const char* name = "basis";
  static constexpr int phases = Base::factor_phases + 1;

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    if constexpr (P < Base::factor_phases) this->template factor<P>(at, s);
    else {
      if (at.thread < this->x.size) {
        narrow(s.length[at.thread], ((O*)this->x.lengths)[at.thread * this->x.samples + at.x]);
      }
      write<N>(at, s);
    }
  }

  template <int COUNT> CT_HD void write(const Place& place, const Shared& s) const {
    if constexpr (COUNT > 0) {
      if (this->x.count != COUNT) return write<COUNT - 1>(place, s);
      for (int k = place.thread * Base::WIDTH; k < this->x.width; k += LANES * Base::WIDTH) {
        const int count = this->count_at(k);
        Pack<X, Base::WIDTH> from[COUNT];
        CT_UNROLL for (int u = 0; u < COUNT; ++u) from[u].load(this->at(u, place.x) + k, count, this->vector);
        A e[COUNT][Base::WIDTH];
        Base::template directions<COUNT>(s, from, e);
        CT_UNROLL for (int u = 0; u < COUNT; ++u) {
          this->store((O*)this->x.directions + this->out_at(u, place.x) + k, e[u], count);
        }
      }
    }
  }
};

// grad X = L^-T (grad E + C E), see chunk_gradient in ops/basis.py.
template <class X> struct BasisBackward : Sets<X> {
  using Base = Sets<X>;
  using typename Base::A;
  using typename Base::O;
  static constexpr const char* name = "basis_backward";
  static constexpr int align_phases = 2 * N, phases = Base::factor_phases + align_phases + 3;
  struct Shared : Found<A> {
    A aligned[N][N];  // <grad E_s, E_u>, u <= s < count
    A grad_length[N];
    A inverse_factor[N][N];  // L^-T, upper triangular; columns of vectors without a direction are 0
    A mix[N][N];             // L^-T C
  };

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    constexpr int Q = P - Base::factor_phases, R = Q - align_phases;
    if constexpr (Q < 0) this->template factor<P>(at, s);
    else if constexpr (R < 0) align<Q / 2, Q % 2>(at, s);
    else if constexpr (R == 0) invert(at, s);
    else if constexpr (R == 1) combine(at, s);
    else write<N>(at, s);
  }

  template <int S, int FOLD> CT_HD void align(const Place& at, Shared& s) const {
    if (S >= this->x.count) return;
    if constexpr (FOLD == 0) this->template walk<S, kAlign>(at, s);
    else if (at.thread <= S) s.aligned[S][at.thread] = Base::fold(s.part[at.thread]);
  }

  // A thread solves L^T y = its column of the identity, from below.
  CT_HD void invert(const Place& at, Shared& s) const {
    const int size = this->x.size, column = at.thread;
    if (column >= size) return;
    s.grad_length[column] = (A)((const O*)this->x.lengths)[column * this->x.samples + at.x];
    for (int i = size - 1; i >= 0; --i) {
      A y = i == column && s.length[i] != A(0) ? A(1) : A(0);
      for (int k = i + 1; k < size; ++k) y = vfma(-s.projection[0][k][i], s.inverse_factor[k][column], y);
      s.inverse_factor[i][column] = s.length[i] == A(0) ? y : y / s.length[i];
    }
  }

  CT_HD A symmetric(int s, int u, const Shared& f) const {
    const int high = s > u ? s : u, low = s > u ? u : s;
    const A c = high < this->x.count ? -f.aligned[high][low] : A(0);
    return s == u ? vfma(f.length[s], f.grad_length[s], c) : c;
  }
  CT_HD void combine(const Place& at, Shared& s) const {
    const int size = this->x.size;
    for (int k = at.thread; k < size * size; k += LANES) {
      const int i = k / size, j = k % size;
      A total = A(0);
      for (int m = 0; m < size; ++m) total = vfma(s.inverse_factor[i][m], symmetric(m, j, s), total);
      s.mix[i][j] = total;
    }
  }

  template <int SIZE> CT_HD void write(const Place& place, const Shared& s) const {
    if constexpr (SIZE > 0) {
      if (this->x.size != SIZE) return write<SIZE - 1>(place, s);
      for (int k = place.thread * Base::WIDTH; k < this->x.width; k += LANES * Base::WIDTH) {
        const int count = this->count_at(k);
        Pack<X, Base::WIDTH> from[SIZE];
        CT_UNROLL for (int u = 0; u < SIZE; ++u) from[u].load(this->at(u, place.x) + k, count, this->vector);
        A e[SIZE][Base::WIDTH];
        Base::template directions<SIZE>(s, from, e);
        CT_ROLL for (int i = 0; i < SIZE; ++i) write_one<SIZE>(place.x, i, k, count, e, s);
      }
    }
  }
  template <int SIZE>
  CT_HD void write_one(int64_t sample, int i, int k, int count, const A (*e)[Base::WIDTH], const Shared& s) const {
    A total[Base::WIDTH] = {};
    CT_UNROLL for (int u = 0; u < SIZE; ++u) CT_UNROLL for (int c = 0; c < Base::WIDTH; ++c) total[c] =
        vfma(s.mix[i][u], e[u][c], total[c]);
    for (int u = 0; u < this->x.count; ++u) {
      Pack<O, Base::WIDTH> grad;
      grad.load((const O*)this->x.directions + this->out_at(u, sample) + k, count, this->vector);
      CT_UNROLL for (int c = 0; c < Base::WIDTH; ++c) total[c] = vfma(s.inverse_factor[i][u], (A)grad.v[c], total[c]);
    }
    this->store((X*)this->x.grad[i] + sample * this->x.width + k, total, count);
  }
};

bool aligned(const void* p, int64_t stride_bytes) { return (uintptr_t)p % 16 == 0 && stride_bytes % 16 == 0; }

// Whether every row that is read or written starts at a multiple of 16 bytes.
template <class X> bool vector_access(const VectorSets& x) {
  bool all = aligned(x.directions, x.width * (int64_t)sizeof(typename Types<X>::Out));
  for (int s = 0; s < x.size; ++s) {
    all = all && aligned(x.vector[s], x.stride[s] * (int64_t)sizeof(X)) && aligned(x.grad[s], x.width * (int64_t)sizeof(X));
  }
  return all;
}

template <template <class> class Kernel, class X> Status run(const VectorSets& x) {
  return launch(Kernel<X>{{x, vector_access<X>(x)}}, x.samples, 1, x.stream);
}

template <template <class> class Kernel> Status run(const VectorSets& x) {
  const DeviceGuard guard(x.device);
  if (guard.error) return {Kernel<float>::name, guard.error};
  switch (x.type) {
    case Element::kFloat32: return run<Kernel, float>(x);
    case Element::kFloat64: return run<Kernel, double>(x);
    case Element::kBfloat16: return run<Kernel, Bf16>(x);
    case Element::kFloat16: return run<Kernel, Half>(x);
  }
  return {};
}
}  // namespace

Status basis(const VectorSets& x) { return run<Basis>(x); }
Status basis_backward(const VectorSets& x) { return run<BasisBackward>(x); }
