/* DESIGN: at open the graph becomes a list of steps. In the fused list a learned convolution takes
 * along the max-pool that follows it and an addition that follows that, where nobody else reads
 * what lies between; a group runs when its last node is due. In the plain list every node is a
 * step, for observers. Each value gets a place in one block of scratch, shared with values that are
 * no longer needed. A batch runs in parts of `part_max` images, so that the maps stay in cache and
 * scratch does not grow with the batch. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

#include "../core/affine.h"
#include "../core/dense.h"
#include "../core/kernels.h"
#include "graph.h"
#include "ops.h"
#include "options.h"

enum {
  PART_BYTES = 3 << 19,    /* of the maps that a step reads and writes; see part_choose */
  PART_MAX = 32,           /* images */
  TILE_BYTES = 4 << 20,    /* of gathered values and sums, where a backend has no `conv` */
  TILE_ROWS_PRODUCT = 256, /* rows of a raw product that are quantised at once */
  /* What graph.h allows. More images than one are taken only where their maps fit PART_BYTES. */
  SCRATCH_MAX = HALUT_MAPS_MAX + HALUT_NODES_MAX * HALUT_ALIGN
};

static_assert((uint64_t)HALUT_NODES_MAX * PART_BYTES <= HALUT_MAPS_MAX, "parts fit as well");

struct step {
  uint32_t node;      /* the last one of the group, whose value the step makes */
  uint32_t first;     /* the one that reads `in`: the learned convolution of a group */
  uint32_t in, other; /* values: 0 is the input image, n + 1 the output of node n */
  uint32_t pool;      /* of a group; 1 for none */
  bool adds;
};

struct plan {
  struct step step[HALUT_NODES_MAX];
  uint32_t count;
  size_t place[HALUT_NODES_MAX + 1]; /* of each value in scratch, bytes for part_max images */
  size_t bytes;
};

struct halut_session {
  const struct halut_model_info *info;
  const struct halut_backend_ops *ops;
  struct halut_backend *backend;
  struct halut_helper *own, *helper; /* of threads=2, or NULL; the one in use */
  uint32_t batch_max, part_max, cpu_flags;
  uint32_t handle[HALUT_NODES_MAX];           /* of learned products; [0] of a raw one */
  struct halut_dense *dense[HALUT_NODES_MAX]; /* NULL for other nodes */
  struct halut_kernels kernels;
  struct halut_affine affine; /* of a raw product */
  struct plan fused, plain;
  uint8_t *scratch;    /* the values of a plan */
  uint8_t *group;      /* where a group without `conv` keeps what lies between its nodes */
  uint8_t *tile_value; /* [codebooks][HALUT_LEVELS][tile_rows] */
  int32_t *tile_acc;   /* [outputs][tile_rows] */
  size_t tile_rows;    /* a multiple of HALUT_ROW_BLOCK */
  halut_observe_fn *observe;
  void *observer;
  bool observe_plain;
};

static size_t align_up(size_t bytes) {
  return (bytes + HALUT_ALIGN - 1) / HALUT_ALIGN * HALUT_ALIGN;
}

static void *scratch_alloc(size_t bytes) {
  return aligned_alloc(HALUT_ALIGN, align_up(bytes ? bytes : 1));
}

static size_t node_bytes(const struct halut_node *node) {
  return (size_t)node->channels * node->height * node->width;
}

static size_t value_bytes(const struct halut_model_info *info, uint32_t value) {
  if (value == 0)
    return (size_t)info->channels * info->height * info->width;
  return node_bytes(&info->nodes[value - 1]);
}

/* Is the pool one that an epilogue can do: square, not overlapping, dividing the map? */
static bool pool_fusible(const struct halut_node *pool) {
  const struct halut_conv *window = &pool->conv;
  return window->kernel_h == window->kernel_w && window->stride_h == window->kernel_h &&
         window->stride_w == window->kernel_w && window->height % window->kernel_h == 0 &&
         window->width % window->kernel_w == 0;
}

/* into[n] = the node whose group node n joins, or UINT32_MAX if n ends its group. */
static void groups_find(const struct halut_model_info *info, uint32_t into[HALUT_NODES_MAX]) {
  uint32_t uses[HALUT_NODES_MAX + 1] = {0};
  bool head[HALUT_NODES_MAX]; /* a group that an addition may still join */
  for (uint32_t n = 0; n < info->node_count; n++) {
    uses[info->nodes[n].in[0]]++;
    if (info->nodes[n].op == HALUT_OP_ADD)
      uses[info->nodes[n].in[1]]++;
  }
  for (uint32_t n = 0; n < info->node_count; n++) {
    const struct halut_node *node = &info->nodes[n];
    into[n] = UINT32_MAX;
    head[n] = node->op == HALUT_OP_HALUT;
    if (node->op == HALUT_OP_MAXPOOL && node->in[0] > 0) {
      uint32_t from = node->in[0] - 1;
      if (info->nodes[from].op == HALUT_OP_HALUT && uses[node->in[0]] == 1 && pool_fusible(node)) {
        into[from] = n;
        head[n] = true;
      }
    } else if (node->op == HALUT_OP_ADD) {
      /* A group runs where its addition stands, so either operand may join it. The later one's
       * input was made last, and need not be kept for as long. */
      bool swap = node->in[1] > node->in[0];
      for (uint32_t i = 0; i < 2; i++) {
        uint32_t value = node->in[swap ? 1 - i : i];
        if (value == 0 || uses[value] != 1 || !head[value - 1])
          continue;
        into[value - 1] = n;
        break;
      }
    }
  }
}

/* The step that ends with node `last`, walking back through the nodes that joined it. */
static struct step group_step(const struct halut_model_info *info,
                              const uint32_t into[HALUT_NODES_MAX], uint32_t last) {
  const struct halut_node *node = &info->nodes[last];
  struct step step = {.node = last, .pool = 1};
  if (node->op == HALUT_OP_ADD) {
    uint32_t joined = node->in[1] > 0 && into[node->in[1] - 1] == last ? 1 : 0;
    if (node->in[joined] > 0 && into[node->in[joined] - 1] == last) {
      step.adds = true;
      step.other = node->in[1 - joined];
      last = node->in[joined] - 1;
      node = &info->nodes[last];
    }
  }
  if (node->op == HALUT_OP_MAXPOOL && node->in[0] > 0 && into[node->in[0] - 1] == last) {
    step.pool = node->conv.kernel_h;
    last = node->in[0] - 1;
    node = &info->nodes[last];
  }
  step.first = last;
  step.in = node->in[0];
  if (!step.adds)
    step.other = node->op == HALUT_OP_ADD ? node->in[1] : step.in;
  return step;
}

/* The lowest place where `bytes` do not touch a value that is needed at step `now` or later. */
static size_t place_find(const struct halut_model_info *info, const struct plan *plan,
                         const uint32_t last_use[HALUT_NODES_MAX + 1], uint32_t now, size_t bytes,
                         uint32_t part_max) {
  size_t at = 0;
  for (bool moved = true; moved;) {
    moved = false;
    for (uint32_t s = 0; s < now; s++) {
      uint32_t value = plan->step[s].node + 1;
      size_t begin = plan->place[value],
             end = begin + align_up(value_bytes(info, value) * part_max);
      if (last_use[value] >= now && at < end && begin < at + bytes) {
        at = end;
        moved = true;
      }
    }
  }
  return at;
}

static void plan_make(const struct halut_model_info *info, const uint32_t into[HALUT_NODES_MAX],
                      uint32_t part_max, struct plan *plan) {
  uint32_t last_use[HALUT_NODES_MAX + 1] = {0};
  for (uint32_t n = 0; n < info->node_count; n++) {
    if (into[n] != UINT32_MAX)
      continue;
    struct step step = group_step(info, into, n);
    last_use[step.in] = plan->count;
    last_use[step.other] = plan->count;
    plan->step[plan->count++] = step;
  }
  /* The last node writes to the caller's memory. */
  for (uint32_t s = 0; s + 1 < plan->count; s++) {
    uint32_t value = plan->step[s].node + 1;
    size_t bytes = align_up(value_bytes(info, value) * part_max);
    plan->place[value] = place_find(info, plan, last_use, s, bytes, part_max);
    if (plan->place[value] + bytes > plan->bytes)
      plan->bytes = plan->place[value] + bytes;
  }
}

/* As many images as keep what a step reads and writes within PART_BYTES, at least one. */
static uint32_t part_choose(const struct halut_model_info *info, uint32_t batch_max) {
  size_t most = 1;
  for (uint32_t n = 0; n < info->node_count; n++) {
    const struct halut_node *node = &info->nodes[n];
    size_t bytes = node_bytes(node) + value_bytes(info, node->in[0]);
    most = bytes > most ? bytes : most;
  }
  size_t part = PART_BYTES / most;
  part = part > PART_MAX ? PART_MAX : part;
  part = part > batch_max ? batch_max : part;
  return part ? (uint32_t)part : 1;
}

static void tile_fit(size_t *codebooks, size_t *outputs, const struct halut_lut *lut) {
  *codebooks = lut->codebooks > *codebooks ? lut->codebooks : *codebooks;
  *outputs = lut->outputs > *outputs ? lut->outputs : *outputs;
}

static int tile_alloc(struct halut_session *session, size_t rows_max, size_t codebooks,
                      size_t outputs, struct halut_diag *diag) {
  size_t row_bytes = codebooks * HALUT_LEVELS + outputs * sizeof(int32_t);
  if (row_bytes == 0)
    return 0;
  size_t rows = TILE_BYTES / row_bytes / HALUT_ROW_BLOCK * HALUT_ROW_BLOCK;
  rows = rows < HALUT_ROW_BLOCK ? HALUT_ROW_BLOCK : rows;
  rows = rows > rows_max ? halut_pad_rows(rows_max) : rows;
  session->tile_rows = rows;
  session->tile_value = scratch_alloc(codebooks * HALUT_LEVELS * rows);
  session->tile_acc = scratch_alloc(outputs * rows * sizeof(int32_t));
  if (!session->tile_value || !session->tile_acc)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for a tile of %zu rows", rows);
  return 0;
}

static int layers_load(struct halut_session *session, struct halut_diag *diag) {
  const struct halut_model_info *info = session->info;
  for (uint32_t n = 0; n < info->node_count; n++) {
    const struct halut_node *node = &info->nodes[n];
    int rc = 0;
    if (node->op == HALUT_OP_HALUT)
      rc = session->ops->load(session->backend, &node->lut, &node->conv, &session->handle[n], diag);
    else if (node->op == HALUT_OP_CONV)
      rc = halut_dense_open(&node->conv, node->channels, node->weight, &node->requant,
                            node->in[0] == 0 ? info->input_zero : NULL, session->cpu_flags,
                            &session->dense[n], diag);
    if (rc)
      return rc;
  }
  return 0;
}

static int network_open(struct halut_session *session, struct halut_diag *diag) {
  const struct halut_model_info *info = session->info;
  uint32_t into[HALUT_NODES_MAX];
  size_t codebooks = 0, outputs = 0, positions = 0, group_bytes = 0;
  session->part_max = part_choose(info, session->batch_max);
  groups_find(info, into);
  plan_make(info, into, session->part_max, &session->fused);
  for (uint32_t n = 0; n < info->node_count; n++) {
    const struct halut_node *node = &info->nodes[n];
    if (node->op == HALUT_OP_HALUT) {
      tile_fit(&codebooks, &outputs, &node->lut);
      size_t size = (size_t)node->height * node->width;
      positions = size > positions ? size : positions;
      if (into[n] != UINT32_MAX && node_bytes(node) > group_bytes)
        group_bytes = node_bytes(node);
    }
    into[n] = UINT32_MAX;
  }
  plan_make(info, into, session->part_max, &session->plain);

  size_t bytes =
      session->fused.bytes > session->plain.bytes ? session->fused.bytes : session->plain.bytes;
  group_bytes *= session->part_max;
  assert(bytes <= SCRATCH_MAX);
  assert(group_bytes <= SCRATCH_MAX);
  session->scratch = scratch_alloc(bytes);
  session->group = scratch_alloc(group_bytes);
  if (!session->scratch || !session->group)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory for %zu bytes of scratch",
                      bytes + group_bytes);
  int rc = tile_alloc(session, positions * session->part_max, codebooks, outputs, diag);
  return rc ? rc : layers_load(session, diag);
}

static int product_open(struct halut_session *session, struct halut_diag *diag) {
  const struct halut_model_info *info = session->info;
  const struct halut_lut *lut = &info->lut;
  size_t rows = session->batch_max < TILE_ROWS_PRODUCT ? session->batch_max : TILE_ROWS_PRODUCT;
  int rc = session->ops->matmul ? 0
                                : tile_alloc(session, rows, lut->codebooks, lut->outputs, diag);
  if (!rc)
    rc = halut_affine_open(info->columns, lut->codebooks * HALUT_LEVELS, info->split, info->low,
                           info->inverse, &session->affine, diag);
  return rc ? rc : session->ops->load(session->backend, lut, NULL, &session->handle[0], diag);
}

static int helper_open(struct halut_session *session, struct halut_diag *diag) {
  if (!session->ops->help)
    return halut_fail(diag, HALUT_EINVALID, 0, "\"threads=2\": backend %s shares no work",
                      session->ops->name);
  int rc = halut_helper_open(&session->own, diag);
  if (!rc)
    rc = halut_helper_staff(session->own, diag);
  halut_session_help(session, rc ? NULL : session->own);
  return rc;
}

int halut_session_open(const struct halut_model *model, const struct halut_backend_ops *ops,
                       const char *options, uint32_t batch_max, struct halut_session **out,
                       struct halut_diag *diag) {
  if (batch_max < 1 || batch_max > HALUT_BATCH_MAX)
    return halut_fail(diag, HALUT_EINVALID, 0, "batch of %u, not from 1 to %d", batch_max,
                      HALUT_BATCH_MAX);
  struct halut_session *session = calloc(1, sizeof(*session));
  if (!session)
    return halut_fail(diag, HALUT_ENOMEM, 0, "no memory to open a session");
  session->info = halut_model_info(model);
  session->ops = ops;
  session->batch_max = batch_max;
  struct halut_options read;
  int rc = halut_options_read(options, &read, diag);
  if (rc)
    goto fail;
  session->cpu_flags = read.cpu_flags;
  rc = ops->open(read.backend, &session->backend, diag);
  if (rc)
    goto fail;
  rc = read.threads > 1 ? helper_open(session, diag) : 0;
  if (rc)
    goto fail;
  halut_kernels_init(&session->kernels, session->cpu_flags);
  rc = session->info->kind == HALUT_NETWORK ? network_open(session, diag)
                                            : product_open(session, diag);
  if (rc)
    goto fail;
  *out = session;
  return 0;
fail:
  halut_session_close(session);
  return rc;
}

static void add_run(const struct halut_session *session, const uint8_t *a, const uint8_t *b,
                    uint8_t zero, size_t bytes, uint8_t *out) {
  if (out != a)
    memcpy(out, a, bytes);
  session->kernels.add(out, b, bytes, zero);
}

static void maxpool_run(const struct halut_session *session, const struct halut_conv *window,
                        const uint8_t *in, uint32_t count, uint8_t *out) {
  bool two = window->kernel_h == 2 && window->kernel_w == 2 && window->stride_h == 2 &&
             window->stride_w == 2 && window->height % 2 == 0 && window->width % 2 == 0;
  if (!two) {
    halut_ops_maxpool(window, in, count, out);
    return;
  }
  size_t bytes = (size_t)window->height * window->width;
  for (size_t map = 0; map < (size_t)count * window->channels; map++)
    session->kernels.pool2(in + map * bytes, window->height, window->width,
                           out + map * (bytes / 4));
}

/* A learned convolution by gathering, product and requantising, a tile of rows at a time. */
static int halut_run(struct halut_session *session, uint32_t n, const uint8_t *in, uint32_t count,
                     uint8_t *out, struct halut_stats *stats) {
  const struct halut_node *node = &session->info->nodes[n];
  size_t positions = (size_t)node->height * node->width, rows = positions * count;
  for (size_t row = 0; row < rows; row += session->tile_rows) {
    size_t tile = rows - row < session->tile_rows ? rows - row : session->tile_rows;
    halut_ops_gather(&node->conv, node->lut.codebooks, in, row, tile, session->tile_value);
    int rc = session->ops->product(session->backend, session->handle[n], session->tile_value, tile,
                                   session->tile_acc, stats);
    if (rc)
      return rc;
    halut_ops_requantise(&node->requant, node->lut.outputs, session->tile_acc, row, tile, positions,
                         out);
  }
  return 0;
}

/* A group on a backend that has no `conv`: its nodes one by one, through session->group. */
static int group_run(struct halut_session *session, const struct step *step, const uint8_t *in,
                     const uint8_t *other, uint32_t count, uint8_t *out,
                     struct halut_stats *stats) {
  const struct halut_node *nodes = session->info->nodes, *node = &nodes[step->first];
  uint8_t *sums = step->pool > 1 || step->adds ? session->group : out;
  int rc = halut_run(session, step->first, in, count, sums, stats);
  if (rc)
    return rc;
  uint8_t *pooled = sums;
  if (step->pool > 1) {
    struct halut_conv window = {
        .channels = node->channels, .height = node->height, .width = node->width};
    window.kernel_h = window.kernel_w = window.stride_h = window.stride_w = step->pool;
    window.out_h = node->height / step->pool;
    window.out_w = node->width / step->pool;
    pooled = out;
    maxpool_run(session, &window, sums, count, pooled);
  }
  if (step->adds)
    add_run(session, pooled, other, nodes[step->node].zero, node_bytes(&nodes[step->node]) * count,
            out);
  return 0;
}

static int learned_run(struct halut_session *session, const struct step *step, const uint8_t *in,
                       const uint8_t *other, uint32_t count, uint8_t *out,
                       struct halut_stats *stats) {
  const struct halut_node *nodes = session->info->nodes;
  if (!session->ops->conv)
    return group_run(session, step, in, other, count, out, stats);
  struct halut_epilogue epilogue = {.requant = nodes[step->first].requant,
                                    .pool = step->pool,
                                    .other = step->adds ? other : NULL,
                                    .zero = step->adds ? nodes[step->node].zero : 0};
  return session->ops->conv(session->backend, session->handle[step->first], in, count, &epilogue,
                            out, stats);
}

static int step_run(struct halut_session *session, const struct step *step, const uint8_t *in,
                    const uint8_t *other, uint32_t count, void *out, struct halut_stats *stats) {
  const struct halut_node *node = &session->info->nodes[step->first];
  switch (node->op) {
  case HALUT_OP_HALUT:
    return learned_run(session, step, in, other, count, out, stats);
  case HALUT_OP_CONV:
    halut_dense_conv(session->dense[step->first], session->helper, in, count, out);
    return 0;
  case HALUT_OP_MAXPOOL:
    maxpool_run(session, &node->conv, in, count, out);
    return 0;
  case HALUT_OP_AVGPOOL:
    halut_ops_avgpool(&node->conv, in, count, out);
    return 0;
  case HALUT_OP_ADD:
    add_run(session, in, other, node->zero, node_bytes(node) * count, out);
    return 0;
  case HALUT_OP_LINEAR:
    halut_dense_linear(node->weight, node->bias, node->channels,
                       node->conv.channels * node->conv.height * node->conv.width,
                       session->cpu_flags, in, count, out);
    return 0;
  }
  return HALUT_EINVALID;
}

static void step_observe(const struct halut_session *session, uint32_t n, void *data,
                         uint32_t count) {
  const struct halut_node *node = &session->info->nodes[n];
  bool logits = node->op == HALUT_OP_LINEAR;
  struct halut_tensor value = {.data = data,
                               .dtype = logits ? HALUT_I32 : HALUT_U8,
                               .rank = logits ? 2 : 4,
                               .dim = {count, node->channels, node->height, node->width}};
  session->observe(session->observer, n, &value);
}

/* One part of a batch: count <= part_max. */
static int part_run(struct halut_session *session, const uint8_t *image, uint32_t count,
                    int32_t *logits, struct halut_stats *stats) {
  const struct plan *plan =
      session->observe && session->observe_plain ? &session->plain : &session->fused;
  for (uint32_t s = 0; s < plan->count; s++) {
    const struct step *step = &plan->step[s];
    const uint8_t *in = step->in ? session->scratch + plan->place[step->in] : image;
    const uint8_t *other = step->other ? session->scratch + plan->place[step->other] : image;
    void *out =
        s + 1 == plan->count ? (void *)logits : session->scratch + plan->place[step->node + 1];
    int rc = step_run(session, step, in, other, count, out, stats);
    if (rc)
      return rc;
    if (session->observe)
      step_observe(session, step->node, out, count);
  }
  return 0;
}

static int network_run(struct halut_session *session, const struct halut_tensor *in,
                       struct halut_tensor *out, struct halut_stats *stats) {
  const struct halut_model_info *info = session->info;
  if (in->rank != 4 || in->dim[1] != info->channels || in->dim[2] != info->height ||
      in->dim[3] != info->width || out->dim[1] != info->classes)
    return HALUT_ESHAPE;
  size_t image_bytes = value_bytes(info, 0);
  for (uint32_t done = 0; done < in->dim[0];) {
    uint32_t left = in->dim[0] - done, count = left < session->part_max ? left : session->part_max;
    int rc = part_run(session, (const uint8_t *)in->data + done * image_bytes, count,
                      (int32_t *)out->data + (size_t)done * info->classes, stats);
    if (rc)
      return rc;
    done += count;
  }
  return 0;
}

/* A product on a backend that has no `matmul`, a tile of rows at a time. */
static int tiles_run(struct halut_session *session, struct halut_matrix x, size_t rows, float *y,
                     struct halut_stats *stats) {
  const struct halut_model_info *info = session->info;
  for (size_t row = 0; row < rows; row += session->tile_rows) {
    size_t left = rows - row, here = left < session->tile_rows ? left : session->tile_rows;
    size_t padded = halut_pad_rows(here);
    const struct halut_matrix from = {x.at + row * x.row_step, x.row_step, x.column_step};
    halut_quantise(&session->kernels, &session->affine, from, here, session->tile_value, padded,
                   (struct halut_ahead){0});
    int rc = session->ops->product(session->backend, session->handle[0], session->tile_value, here,
                                   session->tile_acc, stats);
    if (rc)
      return rc;
    session->kernels.dequantise(session->tile_acc, padded, info->scale, info->bias, info->outputs,
                                here, y + row * info->outputs, info->outputs, false);
  }
  return 0;
}

int halut_session_multiply(struct halut_session *session, struct halut_matrix x, uint32_t rows,
                           float *y, struct halut_stats *stats) {
  const struct halut_model_info *info = session->info;
  if (info->kind != HALUT_PRODUCT || rows < 1 || rows > session->batch_max ||
      (x.row_step != 1 && x.column_step != 1))
    return HALUT_ESHAPE;
  const struct halut_floats floats = {&session->affine, info->scale, info->bias};
  int rc = session->ops->matmul
               ? session->ops->matmul(session->backend, session->handle[0], &floats, x, rows, y,
                                      stats)
               : tiles_run(session, x, rows, y, stats);
  if (rc)
    return rc;
  struct halut_tensor out = {y, HALUT_F32, 2, {rows, info->outputs, 1, 1}};
  if (session->observe)
    session->observe(session->observer, 0, &out);
  return 0;
}

static int product_run(struct halut_session *session, const struct halut_tensor *in,
                       struct halut_tensor *out, struct halut_stats *stats) {
  const struct halut_model_info *info = session->info;
  if (in->rank != 2 || in->dim[1] != info->columns || out->dim[1] != info->outputs)
    return HALUT_ESHAPE;
  const struct halut_matrix x = {in->data, info->columns, 1};
  return halut_session_multiply(session, x, in->dim[0], out->data, stats);
}

int halut_session_run(struct halut_session *session, const struct halut_tensor *in,
                      struct halut_tensor *out, struct halut_stats *stats) {
  bool network = session->info->kind == HALUT_NETWORK;
  if (in->dtype != (network ? HALUT_U8 : HALUT_F32) ||
      out->dtype != (network ? HALUT_I32 : HALUT_F32) || in->dim[0] < 1 ||
      in->dim[0] > session->batch_max || out->rank != 2 || out->dim[0] != in->dim[0])
    return HALUT_ESHAPE;
  return network ? network_run(session, in, out, stats) : product_run(session, in, out, stats);
}

void halut_session_observe(struct halut_session *session, halut_observe_fn *observe, void *self,
                           int plain) {
  session->observe = observe;
  session->observer = self;
  session->observe_plain = plain != 0;
}

void halut_session_help(struct halut_session *session, struct halut_helper *helper) {
  session->helper = helper ? helper : session->own;
  if (session->ops->help)
    session->ops->help(session->backend, session->helper);
}

void halut_session_close(struct halut_session *session) {
  if (!session)
    return;
  for (uint32_t n = 0; n < HALUT_NODES_MAX; n++)
    halut_dense_close(session->dense[n]);
  if (session->backend)
    session->ops->close(session->backend);
  halut_helper_close(session->own);
  halut_affine_close(&session->affine);
  free(session->scratch);
  free(session->group);
  free(session->tile_value);
  free(session->tile_acc);
  free(session);
}
