rate: f32 = 0.5


def scaled(x: real[...]):
    return rate * x
