/* ---- the same in every file: what computes --------------------------------------------------- */

#if SMALL
typedef signed char weight;
#define SCALED(x, scale, row) ((float)(x) * (scale)[row])
#else
typedef float weight;
#define SCALED(x, scale, row) ((void)(scale), (void)(row), (x))
#endif

typedef struct {
  int modes, norm, prenorm; /* norm: 0 none, 1 scale and shift, 2 layer norm */
  const float *norm_scale, *norm_shift, *D, *bias;
  const float *decay_re, *decay_im; /* (modes, WIDTH) */
  const weight *w_re;               /* (modes, WIDTH) */
  const float *w_re_scale;
  const weight *w_im;
  const float *w_im_scale;
  const weight *mix; /* (WIDTH, WIDTH), from row to column */
  const float *mix_scale;
} s4_layer;

/* @layers@ */

typedef struct {
  float state[STATE];
  float pooled[WIDTH]; /* the mean of the features so far, or the last ones */
  double count;
} s4_stream;

static void normalise(int kind, const float *scale, const float *shift, const float *u, float *v) {
  int h;
  if (kind == 1) {
    for (h = 0; h < WIDTH; h++) v[h] = u[h] * scale[h] + shift[h];
  } else if (kind == 2) {
    float mean = 0.0f, spread = 0.0f;
    for (h = 0; h < WIDTH; h++) mean += u[h] / WIDTH;
    for (h = 0; h < WIDTH; h++) spread += (u[h] - mean) * (u[h] - mean) / WIDTH;
    spread = 1.0f / sqrtf(spread + EPS);
    for (h = 0; h < WIDTH; h++) v[h] = (u[h] - mean) * spread * scale[h] + shift[h];
  } else {
    for (h = 0; h < WIDTH; h++) v[h] = u[h];
  }
}

/* x (1 + erf(x / sqrt 2)) / 2, with erf to about 1e-6 and no call (Abramowitz & Stegun, 7.1.28) */
static float gelu(float x) {
  const float z = fabsf(x) * 0.70710678f;
  float t = 1.0f + z * (0.0705230784f + z * (0.0422820123f + z * (0.0092705272f +
            z * (0.0001520143f + z * (0.0002765672f + z * 0.0000430638f)))));
  t *= t;
  t *= t;
  t *= t;
  t *= t;
  return 0.5f * (x + fabsf(x) * (1.0f - 1.0f / t));
}

/* z <- exp(a) z + v, y = Re(w z) + D v, and u + mix gelu(y) in place of u */
static void layer_step(const s4_layer *layer, float *restrict u, float *restrict state) {
  float v[WIDTH], y[WIDTH], out[WIDTH];
  int n, h, k;
  normalise(layer->prenorm ? layer->norm : 0, layer->norm_scale, layer->norm_shift, u, v);
  for (h = 0; h < WIDTH; h++) y[h] = layer->D[h] * v[h];
  for (n = 0; n < layer->modes; n++) {
    const float *restrict c = layer->decay_re + n * WIDTH;
    const float *restrict s = layer->decay_im + n * WIDTH;
    const weight *restrict p = layer->w_re + n * WIDTH, *restrict q = layer->w_im + n * WIDTH;
    float *restrict re = state + 2 * n * WIDTH, *restrict im = state + (2 * n + 1) * WIDTH;
    for (h = 0; h < WIDTH; h++) {
      const float next_re = c[h] * re[h] - s[h] * im[h] + v[h];
      const float next_im = c[h] * im[h] + s[h] * re[h];
      re[h] = next_re;
      im[h] = next_im;
      y[h] += SCALED(p[h], layer->w_re_scale, n) * next_re;
      y[h] -= SCALED(q[h], layer->w_im_scale, n) * next_im;
    }
  }
  for (h = 0; h < WIDTH; h++) out[h] = u[h] + layer->bias[h];
  for (h = 0; h < WIDTH; h++) y[h] = gelu(y[h]);
  for (k = 0; k < WIDTH; k++) {
    const weight *restrict row = layer->mix + k * WIDTH;
    for (h = 0; h < WIDTH; h++) out[h] += SCALED(row[h], layer->mix_scale, k) * y[k];
  }
  normalise(layer->prenorm ? 0 : layer->norm, layer->norm_scale, layer->norm_shift, out, u);
}

void s4_init(s4_stream *stream) {
  int i;
  prepare();
  for (i = 0; i < STATE; i++) stream->state[i] = 0.0f;
  for (i = 0; i < WIDTH; i++) stream->pooled[i] = 0.0f;
  stream->count = 0.0;
}

/* One sample: a token number from 0 to VOCABULARY - 1, or a number as it is read. */
void s4_step(s4_stream *stream, sample x) {
  float u[WIDTH], v[WIDTH];
  float *state = stream->state;
  int i, h;
#if VOCABULARY
  for (h = 0; h < WIDTH; h++) u[h] = SCALED(table[x * WIDTH + h], table_scale, x);
#else
  for (h = 0; h < WIDTH; h++) u[h] = (x - MEAN) / STD * gain[h] + offset[h];
#endif
  for (i = 0; i < LAYERS; i++) {
    layer_step(&layers[i], u, state);
    state += 2 * layers[i].modes * WIDTH;
  }
  normalise(LAST_NORM, last_norm_scale, last_norm_shift, u, v);
  stream->count += 1.0;
#if POOL_MEAN
  for (h = 0; h < WIDTH; h++) {
    stream->pooled[h] += (float)((v[h] - stream->pooled[h]) / stream->count);
  }
#else
  for (h = 0; h < WIDTH; h++) stream->pooled[h] = v[h];
#endif
}

static void linear(const weight *w, const float *scale, const float *bias, int in, int outs,
                   const float *x, float *y) {
  int i, k;
  for (k = 0; k < outs; k++) y[k] = bias[k];
  for (i = 0; i < in; i++) {
    for (k = 0; k < outs; k++) y[k] += SCALED(w[i * outs + k], scale, i) * x[i];
  }
}

/* Logits of what was read so far: of one document, or of two. */
#if DOCUMENTS == 1
void s4_answer(const s4_stream *stream, float *logits) {
  linear(head, head_scale, head_bias, WIDTH, CLASSES, stream->pooled, logits);
}
#else
void s4_answer(const s4_stream *first, const s4_stream *second, float *logits) {
  float x[4 * WIDTH], y[WIDTH];
  int h;
  for (h = 0; h < WIDTH; h++) {
    x[h] = first->pooled[h];
    x[WIDTH + h] = second->pooled[h];
    x[2 * WIDTH + h] = x[h] - x[WIDTH + h];
    x[3 * WIDTH + h] = x[h] * x[WIDTH + h];
  }
  linear(inner, inner_scale, inner_bias, 4 * WIDTH, WIDTH, x, y);
  for (h = 0; h < WIDTH; h++) y[h] = gelu(y[h]);
  linear(head, head_scale, head_bias, WIDTH, CLASSES, y, logits);
}
#endif

/* ---- the program: reads samples and prints the probabilities of the classes ------------------ */

#ifndef S4_NO_MAIN
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST 64 /* characters of a word or a number */

static void stop(const char *where, unsigned long at, const char *what) {
  fprintf(stderr, "error: %s, sample %lu: %s\n", where, at, what);
  exit(EXIT_FAILURE);
}

#if !BYTES
static int blank(int c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* The next word, between blanks; 0 at the end. */
static int next_word(FILE *file, char *word, const char *where, unsigned long at) {
  int c, n = 0;
  while ((c = getc(file)) != EOF && blank(c)) continue;
  for (; c != EOF && !blank(c); c = getc(file)) {
    if (n >= LONGEST - 1) stop(where, at, "a word of more than 63 characters");
    if (c == 0) stop(where, at, "a byte that is zero");
    word[n++] = (char)c;
  }
  word[n] = 0;
  return n;
}
#endif

/* The next sample; 0 at the end. */
static int next_sample(FILE *file, sample *x, const char *where, unsigned long at) {
#if BYTES
  int c = getc(file);
  if (c == EOF) return 0;
  if (c >= VOCABULARY) stop(where, at, "a byte that is not in the vocabulary");
  *x = c;
  return 1;
#else
  char word[LONGEST];
  if (!next_word(file, word, where, at)) return 0;
#if VOCABULARY
  for (*x = 0; *x < WORDS; ++*x) {
    if (!strcmp(word, words[*x])) return 1;
  }
  stop(where, at, "a word that is not in the vocabulary");
  return 0;
#else
  {
    char *end;
    const double value = strtod(word, &end);
    if (*end) stop(where, at, "not a number");
    if (!(fabs(value) <= 3e38)) stop(where, at, "a number that is not finite");
    *x = (float)value;
    return 1;
  }
#endif
#endif
}

static unsigned long read_all(FILE *file, const char *where, s4_stream *stream, unsigned long every,
                              void (*show)(const s4_stream *, unsigned long)) {
  unsigned long count = 0;
  sample x;
  s4_init(stream);
  while (next_sample(file, &x, where, count + 1)) {
    s4_step(stream, x);
    if (++count == LENGTH + 1ul) {
      fprintf(stderr, "note: %s is longer than the %lu samples of training\n", where, LENGTH);
    }
    if (every && show && count % every == 0) show(stream, count);
  }
  if (ferror(file)) stop(where, count, "it cannot be read");
  if (!count) stop(where, count, "it is empty");
  return count;
}

static void print(const float *logits, unsigned long count) {
  float largest = logits[0], total = 0.0f;
  int k;
  for (k = 0; k < CLASSES; k++) {
    if (!(fabsf(logits[k]) <= 3e38f)) stop("the answer", count, "it is not finite");
    largest = logits[k] > largest ? logits[k] : largest;
  }
  for (k = 0; k < CLASSES; k++) total += expf(logits[k] - largest);
  printf("%lu", count);
  for (k = 0; k < CLASSES; k++) {
    printf("\t%s %.6f", classes[k], (double)(expf(logits[k] - largest) / total));
  }
  printf("\n");
  if (fflush(stdout)) stop("standard output", count, "it cannot be written");
}

#if DOCUMENTS == 1
static void show(const s4_stream *stream, unsigned long count) {
  float logits[CLASSES];
  s4_answer(stream, logits);
  print(logits, count);
}

int main(int argc, char **argv) {
  static s4_stream stream;
  unsigned long count, every = 0;
  if (argc > 2 || (argc == 2 && strspn(argv[1], "0123456789") != strlen(argv[1]))) {
    fprintf(stderr, "error: %s [samples between two answers] < samples\n", argv[0]);
    return EXIT_FAILURE;
  }
  if (argc == 2) every = strtoul(argv[1], 0, 10);
  count = read_all(stdin, "standard input", &stream, every, show);
  if (!every || count % every) show(&stream, count);
  return EXIT_SUCCESS;
}
#else
int main(int argc, char **argv) {
  static s4_stream streams[2];
  float logits[CLASSES];
  unsigned long count = 0;
  int i;
  if (argc != 3) {
    fprintf(stderr, "error: this model compares two documents: %s first.txt second.txt\n", argv[0]);
    return EXIT_FAILURE;
  }
  for (i = 0; i < 2; i++) {
    FILE *file = fopen(argv[i + 1], "rb");
    if (!file) stop(argv[i + 1], 0, "it cannot be opened");
    count += read_all(file, argv[i + 1], &streams[i], 0, 0);
    fclose(file);
  }
  s4_answer(&streams[0], &streams[1], logits);
  print(logits, count);
  return EXIT_SUCCESS;
}
#endif
#endif
