class Stream:
    pass
