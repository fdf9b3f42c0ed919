"""Ask a trained model about an image: python examples/ask_a_model.py RUN IMAGE "How many stars are there?"

RUN is what `maskgen train` wrote, or a model folder of `maskgen init-model` (untrained: it answers nonsense).
"""

import sys

import maskgen

run, image, question = sys.argv[1:4]
model = maskgen.load_model(run)
print(model.answer(image, question, max_new_tokens=32))
