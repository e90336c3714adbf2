"""Train a vision-language policy with TRL's GRPOTrainer, by the score of a judge as its reward.

8B judge: on a GPU of its own, ur.trl_reward(ur.open_judge(JUDGE, device="cuda:1")), or a server.
Real policy: POLICY = "Qwen/Qwen2.5-VL-3B-Instruct", your rows, 8 GENERATIONS, learning_rate=1e-6.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

from datasets import Dataset
from PIL import Image
from trl import GRPOConfig, GRPOTrainer

import unified_reward as ur
from unified_reward.core.extensions import checkpoint_path
from unified_reward_lab.microworld import Scene, Thing, render


POLICY, GENERATIONS, STEPS = str(checkpoint_path("tiny_base")), 4, 2
out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())
QUESTION = "where is the circle?"
star = Thing("red", "star", "large", "top left")
circles = [Thing(each, "circle", "small", "bottom right") for each in ("blue", "green", "yellow")]
images = [Image.fromarray(render(Scene((star, circle)), seed=0)) for circle in circles]
prompt = [{"role": "user", "content": QUESTION}]
data = Dataset.from_list([{"prompt": prompt, "image": image} for image in images])
reward = ur.trl_reward("tiny_judge")  # None for an answer that the judge did not score

arguments = GRPOConfig(
    output_dir=str(out / "trl"),
    max_steps=STEPS,
    num_generations=GENERATIONS,
    per_device_train_batch_size=GENERATIONS * len(data),
    max_completion_length=12,
    temperature=1.3,
    learning_rate=1e-4,
    logging_steps=1,
    save_strategy="no",
    use_cpu=True,
    bf16=False,
)
trainer = GRPOTrainer(POLICY, reward_funcs=reward, args=arguments, train_dataset=data)
trainer.train()
for entry in (entry for entry in trainer.state.log_history if "reward" in entry):
    print(f"step {entry['step']}: mean reward {entry['reward']:.2f} ± {entry['reward_std']:.2f}")
trainer.save_model(str(out / "policy"))
print(f"written: {out / 'policy'}")
