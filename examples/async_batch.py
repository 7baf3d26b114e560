"""A batch of LLM calls on asyncio, each answer saved at once. Kill it and start it again: it goes on where it was.

    threadsafe-timeout fake-llm &     # or any other server with OpenAI's API
    OPENAI_BASE_URL=http://127.0.0.1:8089/v1 OPENAI_API_KEY=unused python async_batch.py
"""

from __future__ import annotations

import asyncio

from openai import AsyncOpenAI

import threadsafe_timeout
from threadsafe_timeout import AsyncPool
from threadsafe_timeout.checkpoint import open_run

QUESTIONS = [f"question {number}" for number in range(30)]


async def main() -> None:
    threadsafe_timeout.install(llm_timeout=20)  # one call, retries included
    journal, finished = open_run("async_batch.jsonl", config={"version": 1}, retry={"timeout"})
    async with AsyncOpenAI() as client:

        async def ask(question: str) -> str | None:
            messages = [{"role": "user", "content": question}]
            answer = await client.chat.completions.create(model="m", messages=messages)  # type: ignore[arg-type]
            return answer.choices[0].message.content

        async with AsyncPool(10, task_timeout=30, grace=1, checkpoint=journal) as pool:
            submit = pool.with_options(key=str).submit
            tasks = {submit(ask, question): question for question in QUESTIONS if question not in finished}
            async for task in pool.as_completed(tasks):
                print(tasks[task], task.exception() or task.result())
    journal.close(ended=True)


if __name__ == "__main__":
    asyncio.run(main())
