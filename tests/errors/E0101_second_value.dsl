def f(x: dim):
    y = x 2
    z = g(x y)
    print x
    return y
