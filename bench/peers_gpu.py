"""What PyTorch takes for the same work on this card: one JSON line for each. Times are medians of replayed CUDA graphs over random inputs."""
import json
import sys

try:
    import torch
except ImportError:
    sys.exit('python3 has no torch')
if not torch.cuda.is_available():
    sys.exit('torch sees no CUDA device')
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

torch.manual_seed(0)
DEVICE = 'cuda'
DTYPE = torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
NAME = str(DTYPE).removeprefix('torch.')


def median_us(call, copies):
    """Median time of call(i) over i < copies, from graphs of all copies."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(copies):
            call(i)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(copies):
                call(i)
        times = []
        for _ in range(20):
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record()
            graph.replay()
            b.record()
            b.synchronize()
            times.append(a.elapsed_time(b) * 1000 / copies)
    return sorted(times)[len(times) // 2]


def report(name, call, copies, flops=0.0, moved=0.0):
    """One line; what this card or this PyTorch cannot do is told on stderr."""
    try:
        us = median_us(call, copies)
    except RuntimeError as error:
        print(f'{name}: {error}', file=sys.stderr, flush=True)
        return
    print(json.dumps({'name': name, 'microseconds': us, 'flopsPerSecond': flops / us * 1e6, 'bytesPerSecond': moved / us * 1e6}), flush=True)


def random(*shape):
    return torch.randn(*shape, device=DEVICE, dtype=DTYPE)


def matmul(m, n, k):
    copies = max(1, min(8, (256 << 20) // (2 * n * k)))
    x, w = [random(m, k) for _ in range(copies)], [random(n, k) / k**0.5 for _ in range(copies)]
    report(f'matmul {NAME} {m}x{n}x{k}', lambda i: F.linear(x[i], w[i]), copies, 2.0 * m * n * k, 2.0 * (m * k + n * k + m * n))


def attention(heads, length, size, rows):
    """rows == 0: a prompt of `length`, causal; else so many sequences with one query each, at `length` positions."""
    sequences, queries = (rows, 1) if rows else (1, length)
    q, k, v = random(sequences, heads, queries, size), random(sequences, heads, length, size), random(sequences, heads, length, size)
    what = f'{rows} rows at {length}' if rows else f'prompt of {length}'
    contexts = rows * length if rows else length * (length + 1) / 2
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        with sdpa_kernel(backend):
            report(f'{backend.name.lower()} {NAME} {heads} heads of {size}, {what}',
                   lambda i: F.scaled_dot_product_attention(q, k, v, is_causal=not rows), 4,
                   4.0 * contexts * heads * size, 2.0 * (q.numel() * 2 + k.numel() * 2))


def sampling(rows, vocab):
    logits = torch.randn(rows, vocab, device=DEVICE) * 3

    def draw(_):
        ordered, index = torch.sort(logits, dim=-1, descending=True)
        mass = torch.softmax(ordered, dim=-1)
        mass = torch.where(torch.cumsum(mass, dim=-1) - mass < 0.92, mass, torch.zeros_like(mass))
        # The exponential race: an argmax draws in proportion to mass, without a host round trip.
        noise = torch.empty_like(mass).exponential_()
        return index.gather(-1, (mass / noise).argmax(dim=-1, keepdim=True))

    report(f'top-p by sorting {rows} x {vocab}', draw, 4, moved=4.0 * rows * vocab)


for width in (2560, 4096, 5120):
    for rows in (1, 8, 64, 2048):
        matmul(rows, 7 * width, width)
        matmul(rows, width, 5 * width)
    for rows in (1, 8, 64):
        matmul(rows, 50280, width)
for heads, size in ((32, 80), (32, 128), (40, 128), (16, 256)):
    for rows in (0, 1, 8, 64):
        attention(heads, 2048, size, rows)
for rows in (1, 64, 256):
    sampling(rows, 50280)
