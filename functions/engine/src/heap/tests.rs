use proptest::prelude::*;

use super::*;

#[test]
fn small_blocks_beyond_the_limit_come_from_the_reserve() {
    let usage = Rc::new(Usage::unlimited());
    let mut heap = Heap::new(Rc::clone(&usage));
    usage.limit(1 << 20);
    assert!(heap.alloc(2 << 20).is_null());
    assert!(!usage.is_exhausted(), "a refused large block does not end the call");
    let mut given = 0;
    while !heap.alloc(MAX_SMALL_BYTES).is_null() {
        given += MAX_SMALL_BYTES;
    }
    assert!(usage.is_exhausted());
    assert_eq!(given, (1 << 20) + RESERVE_BYTES);
    assert!(heap.alloc(MAX_SMALL_BYTES + 1).is_null());
}

#[derive(Debug, Clone)]
enum Step {
    Take { size: usize, is_zeroed: bool },
    Resize { which: usize, size: usize },
    Free { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let size = 1..100_000_usize;
    prop_oneof![
        (size.clone(), any::<bool>()).prop_map(|(size, is_zeroed)| Step::Take { size, is_zeroed }),
        (any::<usize>(), size).prop_map(|(which, size)| Step::Resize { which, size }),
        any::<usize>().prop_map(|which| Step::Free { which }),
    ]
}

fn contents((block, size, _): (*mut u8, usize, u8)) -> Vec<u8> {
    // SAFETY: the heap allocated the block, and all of it was written.
    unsafe { std::slice::from_raw_parts(block, size) }.to_vec()
}

fn apply(heap: &mut Heap, blocks: &mut Vec<(*mut u8, usize, u8)>, steps: Vec<Step>) {
    for (number, step) in steps.into_iter().enumerate() {
        let mark = u8::try_from(number + 100).unwrap();
        match step {
            Step::Take { size, .. } => {
                let block = heap.alloc(size);
                // SAFETY: the block is that long.
                unsafe { block.write_bytes(mark, size) };
                blocks.push((block, size, mark));
            }
            Step::Resize { .. } | Step::Free { .. } if blocks.is_empty() => {}
            Step::Resize { which, size } => {
                let which = which % blocks.len();
                // SAFETY: the heap allocated the block, and returns a new one of this size.
                unsafe {
                    let block = heap.realloc(blocks[which].0, size);
                    block.write_bytes(mark, size);
                    blocks[which] = (block, size, mark);
                }
            }
            Step::Free { which } => {
                let (block, _, _) = blocks.swap_remove(which % blocks.len());
                // SAFETY: the heap allocated the block.
                unsafe { heap.dealloc(block) };
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Each block keeps its contents whatever happens to the others, and the usage is exact.
    #[test]
    fn blocks_are_disjoint_and_counted(steps in prop::collection::vec(step(), 0..60)) {
        let usage = Rc::new(Usage::unlimited());
        let mut heap = Heap::new(Rc::clone(&usage));
        let mut blocks: Vec<(*mut u8, usize, u8)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let mark = u8::try_from(number + 1).unwrap();
            match step {
                Step::Take { size, is_zeroed } => {
                    let block = if is_zeroed { heap.calloc(1, size) } else { heap.alloc(size) };
                    if is_zeroed {
                        // SAFETY: the block is that long, and zeroed.
                        let bytes = unsafe { std::slice::from_raw_parts(block, size) };
                        prop_assert!(bytes.iter().all(|byte| *byte == 0));
                    }
                    // SAFETY: the block is that long.
                    unsafe { block.write_bytes(mark, size) };
                    blocks.push((block, size, mark));
                }
                Step::Resize { .. } | Step::Free { .. } if blocks.is_empty() => {}
                Step::Resize { which, size } => {
                    let which = which % blocks.len();
                    let (block, old_size, mark) = blocks[which];
                    // SAFETY: the heap allocated the block; this much of the new one is written.
                    unsafe {
                        let block = heap.realloc(block, size);
                        let kept = std::slice::from_raw_parts(block, size.min(old_size));
                        prop_assert!(kept.iter().all(|byte| *byte == mark));
                        block.write_bytes(mark, size);
                        blocks[which] = (block, size, mark);
                    }
                }
                Step::Free { which } => {
                    let (block, size, mark) = blocks.swap_remove(which % blocks.len());
                    // SAFETY: the heap allocated the block, and all of it was written.
                    unsafe {
                        let bytes = std::slice::from_raw_parts(block, size);
                        prop_assert!(bytes.iter().all(|byte| *byte == mark));
                        prop_assert_eq!(Heap::usable_size(block), size);
                        heap.dealloc(block);
                    }
                }
            }
            let sum: usize = blocks.iter().map(|(_, size, _)| size).sum();
            prop_assert_eq!(usage.bytes.get(), sum);
            prop_assert_eq!(heap.0.borrow().given.len(), blocks.len());
        }
    }

    /// Restoring an image brings back exactly the contents of the heap at that time, however often
    /// and whatever the engine did since.
    #[test]
    fn images_restore_the_heap(
        before in prop::collection::vec(step(), 0..30),
        between in prop::collection::vec(step(), 0..30),
        rounds in prop::collection::vec(prop::collection::vec(step(), 0..60), 1..4),
    ) {
        let usage = Rc::new(Usage::unlimited());
        let mut heap = Heap::new(Rc::clone(&usage));
        let mut blocks = Vec::new();
        apply(&mut heap, &mut blocks, before);
        // A later image replaces this one.
        drop(heap.image());
        apply(&mut heap, &mut blocks, between);
        let image = heap.image();
        let used = usage.bytes.get();
        let there: Vec<_> = blocks.iter().map(|block| contents(*block)).collect();
        for steps in rounds {
            let mut blocks = blocks.clone();
            apply(&mut heap, &mut blocks, steps);
            // SAFETY: this is the last image, and no block allocated since is used again.
            unsafe { heap.restore(&image) };
            prop_assert_eq!(usage.bytes.get(), used);
        }
        let now: Vec<_> = blocks.iter().map(|block| contents(*block)).collect();
        prop_assert_eq!(&now, &there);
        prop_assert!(heap.0.borrow().given.is_empty());
        // The heap remains usable.
        for (block, _, _) in blocks {
            // SAFETY: the heap allocated the block before the image, which was restored.
            unsafe { heap.dealloc(block) };
        }
        prop_assert_eq!(usage.bytes.get(), 0);
    }
}
