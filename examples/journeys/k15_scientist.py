"""What a data scientist writes for a cluster that somebody else launched: Python, and nothing of the cluster but what the work
needs of it. It is submitted by `k15_ops_launches`."""

from k12_cpu_to_gpu import train, visits

import mlplat

with mlplat.connect() as platform:
    data = platform.features.training_set(
        "buys", visits(), [], label="buys", time="seen_at", request=["minutes", "pages", "device"]
    )
    platform.promote(train(platform, data, "cpu:2"))
    print(f"version {platform.gold('buys').version} is gold")
