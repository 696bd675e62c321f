"""Operations per image: closed forms, traces, counters, and the walk through a method that is counted."""
