// RTMODecode: head tensors to people, one block an image, no data-dependent shape.
//
// The same statements run on a GPU and, built with a C++ compiler and -DRTMO_HOST, on a CPU, where they are tested
// against plain NumPy. THREADS(t) is the block's threads: the thread itself on a GPU, a loop over all of them on a
// CPU, in an order that the test chooses. The rules that make the two the same: no variable that differs between threads
// lives across SYNC(), what must live on is in shared or global memory; between two THREADS stands a SYNC(); and what all
// threads read of shared memory between them goes through UNIFORM() and is closed by a SYNC(), too. The host build counts
// breaches of the last two, which its loops would hide. Compile without contraction of a * b + c (--fmad=false,
// -ffp-contract=off): every operation is then IEEE 754 on its own, and comparisons fall as in NumPy.
//
// No sort. A round marks the last person and whom they suppress as dead, counts who is better, and finds the best that
// is left, all in one pass over the cells; equal scores go to the lower cell. So the order of threads is without effect.

#define BLOCK 512

#ifdef RTMO_HOST
#include <cmath>
#include <cstring>
using std::rint;
#define DEVICE static
#define SHARED static
// What has happened since the last barrier: 1, threads have run; 2, shared memory was read.
static int since, breaches, order;
static int enter(int state) { breaches += state == 1 ? since != 0 : since == 1; since = state; return 0; }
#define SYNC() (since = 0)
#define UNIFORM(x) (enter(2), (x))
#define THREADS(t) for (int n_ = enter(1), t = place(0); n_ < BLOCK; ++n_, t = place(n_))
static int place(int n) { return order == 0 ? n : order == 1 ? BLOCK - 1 - n : (n * 211 + 17) % BLOCK; }
static double from_bits(long long bits) { double x; std::memcpy(&x, &bits, sizeof x); return x; }
static float from_bits(int bits) { float x; std::memcpy(&x, &bits, sizeof x); return x; }
#else
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__
#define SYNC() __syncthreads()
#define UNIFORM(x) (x)
#define THREADS(t) for (int t = threadIdx.x, once_ = 1; once_; once_ = 0)
DEVICE double from_bits(long long bits) { return __longlong_as_double(bits); }
DEVICE float from_bits(int bits) { return __int_as_float(bits); }
#endif

// As numpy.maximum and numpy.minimum: a NaN on either side is the result.
DEVICE float larger(float a, float b) { return a >= b || a != a ? a : b; }
DEVICE float smaller(float a, float b) { return a <= b || a != a ? a : b; }

// exp in double, rounded to float once: the float next to the true value, but for one argument in millions.
// Own arithmetic, for the libraries of a CPU and a GPU differ in last bits.
DEVICE float exponential(float argument) {
    const double x = argument;
    if (x != x) return argument;
    if (x > 89.0) return from_bits(0x7f800000);
    if (x < -104.0) return 0.0f;
    const double k = rint(x * 1.4426950408889634);
    // ln 2 in two parts; the first has so few bits that its product with k is exact.
    const double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
    // Taylor's series, |r| < 0.35: the first term left out is below 1e-17.
    double sum = 1.0 / 6227020800.0;
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    return (float)(sum * from_bits(((long long)k + 1023) << 52));
}

DEVICE float logistic(float x) {
    const float z = exponential(x >= 0.0f ? -x : x);
    return (x >= 0.0f ? 1.0f : z) / (1.0f + z);
}

// A score and a cell; nobody is a score of 0.
DEVICE bool better(float score, int cell, float other, int other_cell) {
    return score > other || (score == other && cell < other_cell);
}

// One image. Arguments as of the kernel, moved to the image's own part.
DEVICE void decode_image(
    const float* logits, const float* boxes, const float* priors, int cells, int max_dets, int pre_topk,
    float score_thr, int score_exponent, float nms_thr,
    int* num_dets, float* out_boxes, float* out_scores, int* out_kept, float* work) {
    // The best cell that each thread has seen, and how many candidates it has that are better than the last pick.
    SHARED float best_score[BLOCK];
    SHARED int best_cell[BLOCK];
    SHARED int best_rank[BLOCK];
    // Of a candidate the score, negative once it is dead; 0 for all others.
    float* scores = work;
    float* x1 = work + cells;
    float* y1 = x1 + cells;
    float* x2 = y1 + cells;
    float* y2 = x2 + cells;
    // sigmoid(x) < exp(x) < 2^e <= score_thr: most cells need no exponential.
    const float hopeless = score_exponent * 0.69314718f - 0.001f;

    THREADS(t) {
        float top = 0.0f;
        int top_cell = cells;
        for (int cell = t; cell < cells; cell += BLOCK) {
            const float logit = logits[cell];
            const float score = logit < hopeless ? 0.0f : logistic(logit);
            // A comparison with NaN is false: NaN is nobody.
            const bool candidate = score > score_thr;
            scores[cell] = candidate ? score : 0.0f;
            if (!candidate) continue;
            const float* box = boxes + 4 * (long long)cell;
            const float half_width = exponential(box[2]) * 0.5f, half_height = exponential(box[3]) * 0.5f;
            const float x = box[0] + priors[2 * cell], y = box[1] + priors[2 * cell + 1];
            x1[cell] = x - half_width;
            y1[cell] = y - half_height;
            x2[cell] = x + half_width;
            y2[cell] = y + half_height;
            if (better(score, cell, top, top_cell)) { top = score; top_cell = cell; }
        }
        best_score[t] = top;
        best_cell[t] = top_cell;
        best_rank[t] = 0;
        for (int row = t; row < max_dets; row += BLOCK) {
            out_scores[row] = 0.0f;
            out_kept[row] = 0;
            for (int side = 0; side < 4; ++side) out_boxes[4 * row + side] = 0.0f;
        }
    }
    SYNC();

    int kept = 0, pick = cells;
    float pick_score = 0.0f;
    for (;;) {
        for (int width = BLOCK / 2; width > 0; width /= 2) {
            THREADS(t) {
                if (t < width) {
                    best_rank[t] += best_rank[t + width];
                    if (better(best_score[t + width], best_cell[t + width], best_score[t], best_cell[t])) {
                        best_score[t] = best_score[t + width];
                        best_cell[t] = best_cell[t + width];
                    }
                }
            }
            SYNC();
        }
        const float next_score = UNIFORM(best_score[0]);
        const int next = UNIFORM(best_cell[0]);
        const int rank = UNIFORM(best_rank[0]);
        SYNC();

        // The last pick is a person if it is among the pre_topk best candidates, the dead ones counted too.
        if (pick < cells) {
            if (pre_topk > 0 && rank >= pre_topk) break;
            THREADS(t) {
                if (t == 0) {
                    out_scores[kept] = pick_score;
                    out_kept[kept] = pick;
                    out_boxes[4 * kept] = x1[pick];
                    out_boxes[4 * kept + 1] = y1[pick];
                    out_boxes[4 * kept + 2] = x2[pick];
                    out_boxes[4 * kept + 3] = y2[pick];
                }
            }
            SYNC();
            ++kept;
        }
        if (kept == max_dets || next == cells) break;
        pick = next;
        pick_score = next_score;

        THREADS(t) {
            const float left = x1[pick], top_side = y1[pick], right = x2[pick], bottom = y2[pick];
            const float area = (right - left) * (bottom - top_side);
            float top = 0.0f;
            int top_cell = cells, rank_here = 0;
            for (int cell = t; cell < cells; cell += BLOCK) {
                const float score = scores[cell];
                if (better(score < 0.0f ? -score : score, cell, pick_score, pick)) ++rank_here;
                if (!(score > 0.0f)) continue;
                const float width = larger(smaller(right, x2[cell]) - larger(left, x1[cell]), 0.0f);
                const float height = larger(smaller(bottom, y2[cell]) - larger(top_side, y1[cell]), 0.0f);
                const float both = width * height;
                const float other = (x2[cell] - x1[cell]) * (y2[cell] - y1[cell]);
                const float overlap = both / larger(area + other - both, 1e-6f);
                if (cell == pick || overlap > nms_thr) {
                    scores[cell] = -score;
                } else if (better(score, cell, top, top_cell)) {
                    top = score;
                    top_cell = cell;
                }
            }
            best_score[t] = top;
            best_cell[t] = top_cell;
            best_rank[t] = rank_here;
        }
        SYNC();
    }
    THREADS(t) {
        if (t == 0) num_dets[0] = kept;
    }
    SYNC();
}

// The image's part of every array, and the thresholds from their bits.
#define DECODE_IMAGE(image)                                                                                        \
    decode_image(logits + (image) * (long long)cells, boxes + (image) * 4ll * cells, priors, cells, max_dets,        \
                 pre_topk, from_bits(score_bits), (score_bits >> 23) - 127, from_bits(nms_bits), num_dets + (image), \
                 out_boxes + (image) * 4ll * max_dets, out_scores + (image) * (long long)max_dets,                   \
                 out_kept + (image) * (long long)max_dets, work + (image) * 5ll * cells)

// Inputs:  logits (B, cells), boxes (B, cells, 4): offset of the centre from the prior and logarithm of width and
//          height, pixels; priors (cells, 2): x, y, pixels.
// Scalars: int32 only, as ahead-of-time plugins allow nothing else; the thresholds, floats, come as their bits.
//          pre_topk 0: all candidates.
// Outputs: num_dets (B, 1), boxes (B, max_dets, 4) x1, y1, x2, y2 unclipped, scores (B, max_dets), kept cells
//          (B, max_dets); best first, rows from num_dets on zero. work (B, 5, cells): scratch.
#ifdef RTMO_HOST
// Returns how often the rules at the top were broken.
extern "C" int rtmo_decode_host(
    int batch, int thread_order,
#else
extern "C" __global__ void __launch_bounds__(BLOCK) rtmo_decode(
#endif
    const float* logits, const float* boxes, const float* priors,
    int cells, int max_dets, int pre_topk, int score_bits, int nms_bits,
    int* num_dets, float* out_boxes, float* out_scores, int* out_kept, float* work) {
#ifdef RTMO_HOST
    order = thread_order;
    since = breaches = 0;
    for (int image = 0; image < batch; ++image) DECODE_IMAGE(image);
    return breaches;
#else
    DECODE_IMAGE((int)blockIdx.x);
#endif
}
