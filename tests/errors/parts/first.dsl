from second import two


def one(x: real[...]):
    return two(x)
