def f(x: dim)
    if x == 1
        return 2
    else
        for i in range(x)
            y = i
    return y
