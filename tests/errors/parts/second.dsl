from first import one


def two(x: real[...]):
    return one(x)
