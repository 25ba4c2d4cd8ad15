def f(x: dim):
    y = 1 if x
    return g(1 if x, 2)
