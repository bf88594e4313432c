"""A loader without clips, for the test that starts the true launcher."""

from cosmos_rl.launcher.worker_entry import main as launch_worker
from torch.utils.data import Dataset


class Greetings(Dataset):
    def setup(self, config, *args, **kwargs):
        pass

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": f"Hello {index}."}]


if __name__ == "__main__":
    launch_worker(dataset=lambda _: Greetings(), val_dataset=lambda _: Greetings())
