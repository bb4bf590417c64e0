"""GPT-2 from the inside: the code that the notebooks of this course build, chapter by chapter.

Each taught module is the last word of the notebook with the same name: `gptlib.attention` is what
`notebooks/03_attention.ipynb` arrives at. `gptlib.extras` holds what serves the chapters: data,
pictures, widgets, checks of exercises and the commands.

A comment at the end of a line gives the shape that the line produces, in these letters:

    B  batch               T  query positions (time)    S  key positions
    C  channels (n_embd)   H  heads                     D  head size (C / H)
    V  vocabulary
"""
