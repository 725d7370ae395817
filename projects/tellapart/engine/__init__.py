"""What a training program needs beside the model: launching, pre-emption, exact resuming, checks at the door."""
