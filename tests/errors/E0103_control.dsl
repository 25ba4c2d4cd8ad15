x: dim = 3  4
y: dim = 1
