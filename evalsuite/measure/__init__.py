"""What is measured beside right and wrong.

`trajectories`: how far an arm's next-token distributions are from the baseline's, along the baseline's own answers.
"""
