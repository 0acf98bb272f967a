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

torch.manual_seed(0)
DEVICE = 'cuda'


def median_us(call, copies):
    """Median time of call(i) over i < copies, from graphs of all copies."""
    stream = torch.cuda.Stream()
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


def report(name, microseconds, flops=0.0, moved=0.0):
    print(json.dumps({'name': name, 'microseconds': microseconds, 'flopsPerSecond': flops / microseconds * 1e6, 'bytesPerSecond': moved / microseconds * 1e6}), flush=True)


def matmul(m, n, k):
    copies = max(1, min(8, (256 << 20) // (2 * n * k)))
    x = [torch.randn(m, k, device=DEVICE, dtype=torch.bfloat16) for _ in range(copies)]
    w = [torch.randn(n, k, device=DEVICE, dtype=torch.bfloat16) / k**0.5 for _ in range(copies)]
    report(f'matmul bf16 {m}x{n}x{k}', median_us(lambda i: F.linear(x[i], w[i]), copies), 2.0 * m * n * k, 2.0 * (m * k + n * k + m * n))


def attention(heads, length, size):
    q, k, v = (torch.randn(1, heads, length, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(3))
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        with sdpa_kernel(backend):
            try:
                took = median_us(lambda i: F.scaled_dot_product_attention(q, k, v, is_causal=True), 4)
            except RuntimeError as error:
                print(f'attention d {size} {backend.name}: {error}', file=sys.stderr)
                continue
        report(f'attention bf16 {backend.name.lower()} {heads} heads of {size}, {length} causal', took, 2.0 * heads * length * length * size)


def sampling(rows, vocab):
    logits = torch.randn(rows, vocab, device=DEVICE) * 3

    def draw(_):
        ordered, index = torch.sort(logits, dim=-1, descending=True)
        mass = torch.softmax(ordered, dim=-1)
        mass = torch.where(torch.cumsum(mass, dim=-1) - mass < 0.92, mass, torch.zeros_like(mass))
        # The exponential race: an argmax draws in proportion to mass, without a host round trip.
        noise = torch.empty_like(mass).exponential_()
        return index.gather(-1, (mass / noise).argmax(dim=-1, keepdim=True))

    report(f'top-p by sorting {rows} x {vocab}', median_us(draw, 4), moved=4.0 * rows * vocab)


for width in (2560, 4096, 5120):
    for rows in (1, 16, 64, 256, 2048):
        matmul(rows, 7 * width, width)
        matmul(rows, width, 5 * width)
for heads, size in ((32, 80), (32, 128), (16, 256)):
    attention(heads, 2048, size)
for rows in (1, 64, 256):
    sampling(rows, 50280)
