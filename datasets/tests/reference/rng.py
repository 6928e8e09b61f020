"""The golden numbers of src/rng.rs: FNV-1a, SplitMix64 and ChaCha8 written out a second time, in plain Python."""

U64, U32 = (1 << 64) - 1, (1 << 32) - 1


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & U64
    return value


def scramble(x):
    x = (x + 0x9E3779B97F4A7C15) & U64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & U64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & U64
    return x ^ (x >> 31)


def mix(lane, run_seed, purpose, number):
    return scramble(scramble(scramble(scramble(lane) ^ run_seed) ^ fnv1a(purpose)) ^ number)


def chacha8_first_u64(key):
    words = [int.from_bytes(key[i : i + 4], "little") for i in range(0, 32, 4)]
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *words, 0, 0, 0, 0]
    state = list(start)

    def quarter(a, b, c, d):
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & U32
            mixed = state[z] ^ state[x]
            state[z] = (mixed << turn | mixed >> (32 - turn)) & U32

    for _ in range(4):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return (state[0] + start[0]) & U32 | ((state[1] + start[1]) & U32) << 32


if __name__ == "__main__":
    key = b"".join(mix(lane, 0, "init", 0).to_bytes(8, "little") for lane in range(4))
    print("stream(0, init, 0):", chacha8_first_u64(key))
    print("torch_seed(7, step, 3):", mix(4, 7, "step", 3) >> 1)
