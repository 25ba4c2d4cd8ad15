def f(x: dim):
    if x == 1:
        return 1
    else if x == 2:
        return 2
    for i in range(x):
        y = i
    else:
        y = 0
    return
