// Local SGD of a multilayer perceptron with cross-entropy: a client's weights stay in the cache for all its steps.
//
// Letters: C clients, K steps of a client, B examples of a batch, L layers of sizes n_0 ... n_L.
// A layer's weights are held as [n_in][n_out], each row filled up with zeros to whole vectors: what lies there stays 0.
// One tile of registers does all products: forward h = c + x·w, backward dx = d·wᵀ, and the gradient xᵀ·d, which goes
// into the update without ever being stored.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 6, VECTORS = 4;  // of 32 registers 24 hold sums
#else
constexpr int BYTES = 32, ROWS = 4, VECTORS = 2;  // of 16 registers 8 hold sums
#endif
constexpr size_t LINE = 64;

template <typename T> struct Of {
  typedef T Vector __attribute__((vector_size(BYTES), aligned(BYTES)));
  static constexpr int64_t WIDTH = BYTES / sizeof(T);
};
template <typename T> static int64_t padded(int64_t n) {
  constexpr int64_t whole = LINE / sizeof(T);
  return (n + whole - 1) / whole * whole;
}

// Places of two vectors, by numbers that the compiler knows: a's are from 0 on, b's follow.
template <int... I, typename V> static inline V chosen(V a, V b) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, I...);
#define CHOSEN
#endif
#endif
#ifndef CHOSEN  // GCC before 12
  typedef std::conditional_t<sizeof(a[0]) == 4, int32_t, int64_t> Place;
  typedef Place Places __attribute__((vector_size(sizeof(V))));
  return __builtin_shuffle(a, b, Places{I...});
#endif
}

// What is asked; the same for all clients but for where their numbers lie.
template <typename T> struct Job {
  int64_t layers, clients, steps, batch;
  const int64_t *sizes;        // [L + 1]
  const int64_t *activations;  // [L]  0: none, 1: relu, 2: tanh
  const T *x;                  // [C][K][B][n_0], or a table's rows [...][n_0]
  const int64_t *rows;         // [C][K][B] which of the table's; none: x is no table
  const int64_t *y;            // [C][K][B]
  const T *mask, *real;        // [C][K][B], [C][K]
  const T *const *starts;      // [2 L]  weight [C or 1][n_out][n_in] and bias [C or 1][n_out], or none, of each layer
  const T *const *anchors;     // [2 L]  what the pull is towards; none: no pull
  const int64_t *own_start;    // [2 L]  1: each client has its own, 0: they share one
  const int64_t *own_anchor;   // [2 L]
  T *const *ends;              // [2 L]  of every client: the weights after training
  T *losses;                   // [C]    mean over the real steps
  double lr, momentum, decay, pull;
  int64_t nesterov;
};

// ---- one tile of registers ----

// sums[r][v] = Σ_k a[r·ar + k·ak] · b[k·bk + v], then end(r, v, sum) for each vector.
template <typename T, int R, int M, typename End>
static inline __attribute__((always_inline)) void tile(int64_t K, const T *a, int64_t ar, int64_t ak, const T *b,
                                                       int64_t bk, End end) {
  typedef typename Of<T>::Vector V;
  constexpr int64_t W = Of<T>::WIDTH;
  V sums[R][M];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) sums[r][m] = V{};
  for (int64_t k = 0; k < K; k++) {
    V row[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) row[m] = *(const V *)(b + k * bk + m * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const T s = a[r * ar + k * ak];
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) sums[r][m] += s * row[m];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) end(r, m * W, sums[r][m]);
}

template <typename T, int R, typename End>
static inline void across(int64_t N, int64_t K, const T *a, int64_t ar, int64_t ak, const T *b, int64_t bk,
                          End end) {
  constexpr int64_t W = Of<T>::WIDTH;
  int64_t n = 0;
  for (; n + VECTORS * W <= N; n += VECTORS * W)
    tile<T, R, VECTORS>(K, a, ar, ak, b + n, bk, [&](int r, int64_t v, auto sum) { end(r, n + v, sum); });
  for (; n < N; n += W)
    tile<T, R, 1>(K, a, ar, ak, b + n, bk, [&](int r, int64_t v, auto sum) { end(r, n + v, sum); });
}

// end(i, j, sum) for every row i < I and vector from column j < J of the product of a and b over K.
template <typename T, typename End>
static inline void product(int64_t I, int64_t J, int64_t K, const T *a, int64_t ar, int64_t ak, const T *b,
                           int64_t bk, End end) {
  const int64_t tiles = (I + ROWS - 1) / ROWS, rows = (I + tiles - 1) / tiles;
  for (int64_t i = 0; i < I; i += rows) {
    const T *from = a + i * ar;
    auto put = [&](int r, int64_t j, auto sum) { end(i + r, j, sum); };
    switch (I - i < rows ? I - i : rows) {
      case 1: across<T, 1>(J, K, from, ar, ak, b, bk, put); break;
      case 2: across<T, 2>(J, K, from, ar, ak, b, bk, put); break;
      case 3: across<T, 3>(J, K, from, ar, ak, b, bk, put); break;
      case 4: across<T, 4>(J, K, from, ar, ak, b, bk, put); break;
#if defined(__AVX512F__)
      case 5: across<T, 5>(J, K, from, ar, ak, b, bk, put); break;
      case 6: across<T, 6>(J, K, from, ar, ak, b, bk, put); break;
#endif
    }
  }
}

// ---- turning ----

// to[j][i] = from[i][j] for i < I and j < J, in blocks of 4 × 4; whole blocks alone may go over the edges of `from`.
template <typename T>
static void turn(int64_t I, int64_t J, const T *from, int64_t from_wide, T *to, int64_t to_wide) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
  int64_t i = 0;
  for (; i + 4 <= I; i += 4) {
    int64_t j = 0;
    for (; j + 4 <= J; j += 4) {
      const T *at = from + i * from_wide + j;
      T *there = to + j * to_wide + i;
      const Four a = *(const Four *)at, b = *(const Four *)(at + from_wide), c = *(const Four *)(at + 2 * from_wide),
                 d = *(const Four *)(at + 3 * from_wide);
      const Four ab = chosen<0, 4, 1, 5>(a, b), cd = chosen<0, 4, 1, 5>(c, d);
      const Four ba = chosen<2, 6, 3, 7>(a, b), dc = chosen<2, 6, 3, 7>(c, d);
      *(Four *)there = chosen<0, 1, 4, 5>(ab, cd);
      *(Four *)(there + to_wide) = chosen<2, 3, 6, 7>(ab, cd);
      *(Four *)(there + 2 * to_wide) = chosen<0, 1, 4, 5>(ba, dc);
      *(Four *)(there + 3 * to_wide) = chosen<2, 3, 6, 7>(ba, dc);
    }
    for (; j < J; j++)
      for (int64_t k = i; k < i + 4; k++) to[j * to_wide + k] = from[k * from_wide + j];
  }
  for (; i < I; i++)
    for (int64_t j = 0; j < J; j++) to[j * to_wide + i] = from[i * from_wide + j];
}

// ---- exp, for whole rows ----

static inline Of<double>::Vector power_of_e(Of<double>::Vector x) {
  for (int64_t i = 0; i < Of<double>::WIDTH; i++) x[i] = std::exp(x[i]);
  return x;
}

// e^x for x ≤ 0 to about one unit in the last place: x = n·log 2 + r with |r| ≤ log(2)/2, a polynomial of r, and 2^n.
static inline Of<float>::Vector power_of_e(Of<float>::Vector x) {
  typedef Of<float>::Vector V;
  typedef int32_t Whole __attribute__((vector_size(BYTES)));
  x = x < -87.f ? V{} - 87.f : x;
  const V n = (x * 1.44269504f + 12582912.f) - 12582912.f;  // adding 1.5·2^23 leaves no place for a fraction
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = V{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Whole bits = (__builtin_convertvector(n, Whole) + 127) << 23;
  V scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return (p * r * r + r + 1.f) * scale;
}

// ---- one client ----

template <typename T> struct Layer {
  int64_t inputs, outputs, wide, activation;  // wide: outputs, filled up
  T *w, *c, *vw, *vc, *aw, *ac;               // weights, bias; their velocities; their anchors
};

template <typename T> class Client {
  typedef typename Of<T>::Vector V;
  static constexpr int64_t W = Of<T>::WIDTH;
  const Job<T> &job;
  std::vector<Layer<T>> layers;
  std::vector<T *> h, d;  // what each layer gives [B][wide], and the gradients there
  T *turned, *whole, *read_in;  // a layer's weights transposed; all weights; a batch of a table's rows
  int64_t numbers = 0;
  T *memory = nullptr;
  bool shared = true;

 public:
  explicit Client(const Job<T> &job) : job(job) {
    int64_t most = 0, room = 0;
    for (int64_t l = 0; l < job.layers; l++) {
      Layer<T> a{};
      a.inputs = job.sizes[l], a.outputs = job.sizes[l + 1], a.wide = padded<T>(a.outputs);
      a.activation = job.activations[l];
      numbers += (a.inputs + 1) * a.wide;
      const int64_t turned_size = padded<T>(a.outputs) * padded<T>(a.inputs);
      most = turned_size > most ? turned_size : most;
      room += 2 * job.batch * a.wide;
      layers.push_back(a);
      shared = shared && !job.own_start[2 * l] && !job.own_start[2 * l + 1];
    }
    const int64_t copies = 2 + (job.momentum != 0) + (job.anchors != nullptr);  // weights, the common start, and these
    const size_t bytes = (size_t)(copies * numbers + room + most + job.batch * job.sizes[0]) * sizeof(T);
    memory = static_cast<T *>(std::aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE));
    if (!memory) return;
    std::memset(memory, 0, bytes);
    T *next = memory;
    whole = next, next += 2 * numbers;
    T *velocity = job.momentum != 0 ? next : nullptr;
    next += velocity ? numbers : 0;
    T *anchor = job.anchors ? next : nullptr;
    next += anchor ? numbers : 0;
    int64_t at = 0;
    for (auto &a : layers) {
      const int64_t to_bias = a.inputs * a.wide;
      a.w = whole + at, a.c = a.w + to_bias;
      a.vw = velocity ? velocity + at : nullptr, a.vc = velocity ? a.vw + to_bias : nullptr;
      a.aw = anchor ? anchor + at : nullptr, a.ac = anchor ? a.aw + to_bias : nullptr;
      at += to_bias + a.wide;
      h.push_back(next), next += job.batch * a.wide;
      d.push_back(next), next += job.batch * a.wide;
    }
    turned = next, read_in = next + most;
    if (shared) {  // read once, copied for every client
      read(0, job.starts, job.own_start, false);
      std::memcpy(whole + numbers, whole, numbers * sizeof(T));
    }
  }
  ~Client() { std::free(memory); }
  bool ready() const { return memory != nullptr; }

  void run(int64_t c) {
    if (shared)
      std::memcpy(whole, whole + numbers, numbers * sizeof(T));
    else
      read(c, job.starts, job.own_start, false);
    if (job.momentum != 0)
      for (auto &a : layers) std::memset(a.vw, 0, (a.inputs + 1) * a.wide * sizeof(T));
    if (job.anchors) read(c, job.anchors, job.own_anchor, true);
    double loss = 0;
    int64_t steps = 0;
    for (int64_t k = 0; k < job.steps; k++) {
      const int64_t at = c * job.steps + k;
      if (job.real[at] == 0) continue;
      loss += step(batch(at), job.y + at * job.batch, job.mask + at * job.batch);
      steps++;
    }
    job.losses[c] = steps ? loss / steps : std::numeric_limits<T>::quiet_NaN();  // 0/0, as the reference has it
    write(c);
  }

 private:
  // The inputs of a step [B][n_0]. While they are copied, those of the next step are on their way.
  const T *batch(int64_t at) {
    const int64_t n = job.sizes[0], B = job.batch, *row = job.rows + at * B;
    if (!job.rows) return job.x + at * B * n;
    const int64_t next = at + 1 < job.clients * job.steps ? B : 0;
    for (int64_t b = 0; b < B; b++) {
      for (int64_t i = 0; i < n; i += LINE / sizeof(T)) __builtin_prefetch(job.x + row[next + b] * n + i);
      std::memcpy(read_in + b * n, job.x + row[b] * n, n * sizeof(T));
    }
    return read_in;
  }

  // [n_out][n_in] -> [n_in][wide]
  void read(int64_t c, const T *const *from, const int64_t *own, bool anchors) {
    for (size_t l = 0; l < layers.size(); l++) {
      auto &a = layers[l];
      T *w = anchors ? a.aw : a.w, *bias = anchors ? a.ac : a.c;
      const T *src = from[2 * l] + (own[2 * l] ? c * a.outputs * a.inputs : 0);
      turn(a.outputs, a.inputs, src, a.inputs, w, a.wide);
      const T *b = from[2 * l + 1];
      if (b) std::memcpy(bias, b + (own[2 * l + 1] ? c * a.outputs : 0), a.outputs * sizeof(T));
    }
  }

  void write(int64_t c) {
    for (size_t l = 0; l < layers.size(); l++) {
      const auto &a = layers[l];
      T *to = job.ends[2 * l] + c * a.outputs * a.inputs;
      turn(a.inputs, a.outputs, a.w, a.wide, to, a.inputs);
      if (job.ends[2 * l + 1]) std::memcpy(job.ends[2 * l + 1] + c * a.outputs, a.c, a.outputs * sizeof(T));
    }
  }

  double step(const T *x, const int64_t *y, const T *mask) {
    const int64_t L = job.layers, B = job.batch;
    for (int64_t l = 0; l < L; l++) forward(l, l ? h[l - 1] : x, l ? layers[l - 1].wide : job.sizes[0]);
    double loss = cross_entropy(y, mask) + (job.anchors ? pulled() : 0);
    for (int64_t l = L - 1; l >= 0; l--) {
      if (l) backward(l);
      const int64_t wide = l ? layers[l - 1].wide : job.sizes[0];
      update(layers[l], B, l ? h[l - 1] : x, wide, d[l], job.starts[2 * l + 1] != nullptr);
    }
    return loss;
  }

  void forward(int64_t l, const T *x, int64_t xw) {
    const auto &a = layers[l];
    T *out = h[l];
    const bool relu = a.activation == 1;
    product<T>(job.batch, a.wide, a.inputs, x, xw, 1, a.w, a.wide, [&](int64_t b, int64_t j, V sum) {
      sum += *(const V *)(a.c + j);
      *(V *)(out + b * a.wide + j) = relu ? (V)(sum < 0 ? V{} : sum) : sum;  // NaN stays NaN
    });
    if (a.activation == 2)
      for (int64_t i = 0; i < job.batch * a.wide; i++) out[i] = std::tanh(out[i]);
  }

  // The mean over real examples, and in d[L - 1] its gradient: (softmax − one-hot)·mask/Σmask.
  double cross_entropy(const int64_t *y, const T *mask) {
    const auto &a = layers.back();
    T total = 0;
    for (int64_t b = 0; b < job.batch; b++) total += mask[b];
    total = total < 1 ? 1 : total;
    double loss = 0, sums = 1;  // of whole examples the sums' product: one logarithm for all
    for (int64_t b = 0; b < job.batch; b++) {
      const T *z = h.back() + b * a.wide;
      T *e = d.back() + b * a.wide;
      V most = V{} + z[0], sum{};
      for (int64_t j = 0; j < a.wide; j += W) {
        const V v = *(const V *)(z + j);
        most = (v > most) & inside(j, a.outputs) ? v : most;
      }
      const T top = folded(most, [](V p, V q) { return q > p ? q : p; });
      for (int64_t j = 0; j < a.wide; j += W) {
        V v = power_of_e(*(const V *)(z + j) - top);
        v = inside(j, a.outputs) ? v : V{};
        *(V *)(e + j) = v;
        sum += v;
      }
      const T whole = folded(sum, [](V p, V q) { return p + q; }), share = mask[b] / total;
      for (int64_t j = 0; j < a.wide; j += W) *(V *)(e + j) *= share / whole;
      e[y[b]] -= share;
      if (share == 0) continue;
      loss += share * (top - z[y[b]]);
      if (mask[b] == 1 && sums < 1e200)
        sums *= whole;
      else
        loss += share * std::log((double)whole);
    }
    return loss + std::log(sums) / total;
  }

  // Which of a vector's places, from column j on, are below n.
  static auto inside(int64_t j, int64_t n) {
    V lanes;
#pragma GCC unroll 16
    for (int64_t i = 0; i < W; i++) lanes[i] = i;
    return lanes < (V{} + (T)(n - j));
  }

  // op over all places of a vector: over both halves first, until one place is left.
  template <int N = W / 2, typename Op> static inline __attribute__((always_inline)) T folded(V v, Op op) {
    if constexpr (N == 0)
      return v[0];
    else
      return folded<N / 2>(op(v, turned_by<N>(v, std::make_integer_sequence<int, W>{})), op);
  }
  template <int N, int... I>
  static inline __attribute__((always_inline)) V turned_by(V v, std::integer_sequence<int, I...>) {
    return chosen<(I + N) % (int)W...>(v, v);
  }

  // d[l - 1] = d[l]·wᵀ, through the activation before it.
  void backward(int64_t l) {
    const auto &a = layers[l];
    const int64_t wide = layers[l - 1].wide, activation = layers[l - 1].activation;
    turn(a.inputs, (a.outputs + 3) / 4 * 4, a.w, a.wide, turned, wide);  // what fills up rows goes along, in whole blocks
    for (int64_t o = 0; o < a.outputs; o++)
      for (int64_t i = a.inputs; i < wide; i++) turned[o * wide + i] = 0;
    const T *given = h[l - 1];
    T *to = d[l - 1];
    product<T>(job.batch, wide, a.outputs, d[l], a.wide, 1, turned, wide, [&](int64_t b, int64_t j, V sum) {
      const V g = *(const V *)(given + b * wide + j);
      if (activation == 1) sum = g <= 0 ? V{} : sum;
      if (activation == 2) sum *= 1 - g * g;
      *(V *)(to + b * wide + j) = sum;
    });
  }

  void update(Layer<T> &a, int64_t B, const T *x, int64_t xw, const T *slopes, bool bias) {
    const bool plain = job.momentum == 0 && job.decay == 0 && !job.anchors;
    const T lr = job.lr;
    if (plain)
      product<T>(a.inputs, a.wide, B, x, 1, xw, slopes, a.wide,
                 [&](int64_t i, int64_t j, V g) { *(V *)(a.w + i * a.wide + j) -= lr * g; });
    else
      product<T>(a.inputs, a.wide, B, x, 1, xw, slopes, a.wide, [&](int64_t i, int64_t j, V g) {
        const int64_t at = i * a.wide + j;
        moved(g, a.w + at, a.vw ? a.vw + at : nullptr, a.aw ? a.aw + at : nullptr);
      });
    if (!bias) return;
    for (int64_t j = 0; j < a.wide; j += W) {
      V g{};
      for (int64_t b = 0; b < B; b++) g += *(const V *)(slopes + b * a.wide + j);
      moved(g, a.c + j, a.vc ? a.vc + j : nullptr, a.ac ? a.ac + j : nullptr);
    }
  }

  // v ← ρv + g + μ(w − a) + λw;  w ← w − η·(v, or with Nesterov g + ... + ρv)
  inline __attribute__((always_inline)) void moved(V g, T *at, T *velocity, const T *anchor) {
    V w = *(V *)at;
    if (anchor) g += (T)job.pull * (w - *(const V *)anchor);
    g += (T)job.decay * w;
    if (velocity) {
      const V v = (T)job.momentum * *(V *)velocity + g;
      *(V *)velocity = v;
      g = job.nesterov ? g + (T)job.momentum * v : v;
    }
    *(V *)at = w - (T)job.lr * g;
  }

  // (μ/2)·‖w − a‖²; what fills up rows is 0 in both.
  double pulled() const {
    double total = 0;
    for (const auto &a : layers)
      for (int64_t i = 0; i < (a.inputs + 1) * a.wide; i++) {
        const double away = a.w[i] - a.aw[i];
        total += away * away;
      }
    return job.pull / 2 * total;
  }
};

// Trains all clients, in so many threads, each of which takes the next client that is left. 0: done; 1: out of memory.
template <typename T> static int train(const Job<T> *job, int64_t threads) {
  std::atomic<int64_t> next{0}, failed{0};
  auto work = [&] {
    try {
      Client<T> client(*job);
      if (!client.ready()) throw std::bad_alloc();
      for (int64_t c; (c = next++) < job->clients;) client.run(c);
    } catch (const std::bad_alloc &) {  // before the first client: the others train them all
      failed = 1;
    }
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads && i < job->clients; i++) try {
      others.emplace_back(work);
    } catch (const std::system_error &) {  // no thread is to be had: those that are there do it
      break;
    }
  work();
  for (auto &other : others) other.join();
  return failed && next < job->clients;
}

extern "C" int train_float32(const Job<float> *job, int64_t threads) { return train<float>(job, threads); }
extern "C" int train_float64(const Job<double> *job, int64_t threads) { return train<double>(job, threads); }
