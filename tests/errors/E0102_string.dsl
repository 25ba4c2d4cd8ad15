def f():
    a = "half
    b = 'half
    return a


"""never ends
def g():
    return 1
