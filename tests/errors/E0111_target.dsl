def f(x: real[n]):
    x[0] = 1
    x.shape = [1]
    f(x) = 2
    x + 1 = 2
    x[0] += 1
    None = 3
    a, x[1] = x
    () = x
    x[0]: dim = 1
    return x
