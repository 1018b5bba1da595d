use super::*;
use crate::feed::budget::Budget;

fn bounds(messages: usize) -> Bounds {
    Bounds { messages, bytes: 1 << 20, age: 1_000_000 }
}

fn ring(messages: usize, starts: &[i64]) -> Ring {
    let mut ring = Ring::new(bounds(messages), Share::of(&Arc::new(Budget::new(1 << 30))));
    ring.reset(Incarnation::new("t", b"1"), starts.to_vec(), starts.to_vec());
    ring
}

fn put(ring: &mut Ring, partition: u32, offset: i64) -> bool {
    let record = Record { partition, offset, timestamp: None, key: None, headers: Vec::new(), payload: None };
    ring.append(Entry { partition, next: offset + 1, since: 0, body: Body::Message(Arc::new(record)) })
}

/// What a client gets that starts at `positions`: the entries that are due.
fn due(ring: &Ring, positions: &[i64]) -> Vec<(u32, i64)> {
    let place = ring.place(positions);
    (place.seq..ring.next())
        .filter_map(|seq| {
            let entry = ring.entry(seq)?;
            let skipped = place.skip.as_ref().is_some_and(|skip| {
                skip.get(entry.partition as usize).is_some_and(|position| entry.next <= *position)
            });
            (!skipped).then_some((entry.partition, entry.next - 1))
        })
        .collect()
}

#[test]
fn a_resuming_client_gets_exactly_what_it_lacks() {
    // Two partitions, interleaved; every cursor of every prefix of another interleaving.
    let mut ring = ring(100, &[0, 0]);
    for (partition, offset) in [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (1, 2)] {
        assert!(put(&mut ring, partition, offset));
    }
    for zero in 0..=3 {
        for one in 0..=3 {
            let got = due(&ring, &[zero, one]);
            let mut expected: Vec<_> =
                (zero..3).map(|offset| (0, offset)).chain((one..3).map(|offset| (1, offset))).collect();
            let mut sorted = got.clone();
            sorted.sort_unstable();
            expected.sort_unstable();
            assert_eq!(sorted, expected, "cursor [{zero}, {one}]");
            assert_eq!(ring.place(&[zero, one]).gap, None);
        }
    }
}

#[test]
fn what_was_read_before_is_ignored() {
    let mut ring = ring(100, &[5]);
    assert!(!put(&mut ring, 0, 4));
    assert!(put(&mut ring, 0, 5));
    assert!(!put(&mut ring, 0, 5));
    assert_eq!(ring.len(), 1);
}

#[test]
fn a_client_below_the_ring_is_told_a_gap() {
    let mut ring = ring(3, &[0]);
    for offset in 0..10 {
        put(&mut ring, 0, offset);
    }
    assert_eq!(ring.place(&[6]).gap, Some(GapReason::Expired));
    assert_eq!(due(&ring, &[6]), [(0, 7), (0, 8), (0, 9)]);
    assert_eq!(ring.place(&[7]).gap, None);
    assert_eq!(ring.lost(0), Some(GapReason::Recreated));
    assert_eq!(ring.lost(ring.first() - 1), Some(GapReason::Slow));
}

#[test]
fn a_new_life_is_noticed_by_everybody() {
    let mut ring = ring(100, &[0]);
    put(&mut ring, 0, 0);
    let caught_up = ring.next();
    ring.reset(Incarnation::new("t", b"2"), vec![0], vec![0]);
    assert_eq!(ring.lost(caught_up), Some(GapReason::Recreated));
    assert_eq!(ring.lost(ring.next()), None);
}

#[test]
fn a_position_beyond_the_end_is_told_from_one_not_read_yet() {
    let mut ring = Ring::new(bounds(10), Share::of(&Arc::new(Budget::new(1 << 30))));
    ring.reset(Incarnation::new("t", b"1"), vec![0, 0], vec![4, 0]);
    assert!(!ring.place(&[4, 0]).beyond);
    assert!(ring.place(&[5, 0]).beyond);
    assert!(ring.place(&[0, 1]).beyond);
    assert!(ring.place(&[0, 0, 1]).beyond);
}

#[test]
fn a_partition_the_cursor_lacks_is_read_from_its_beginning() {
    let mut ring = ring(100, &[3]);
    put(&mut ring, 0, 3);
    ring.grow(2);
    put(&mut ring, 1, 0);
    assert_eq!(due(&ring, &[4]), [(1, 0)]);
    assert_eq!(ring.place(&[4]).gap, None);
}

#[test]
fn bounds_hold_and_the_budget_balances() {
    let budget = Arc::new(Budget::new(10_000));
    let mut ring = Ring::new(Bounds { messages: 1000, bytes: 100_000, age: 50 }, Share::of(&budget));
    ring.reset(Incarnation::new("t", b"1"), vec![0], vec![0]);
    for offset in 0..500 {
        let record = Record {
            partition: 0,
            offset,
            timestamp: None,
            key: None,
            headers: Vec::new(),
            payload: Some(vec![0; 100].into()),
        };
        let body = Body::Message(Arc::new(record));
        ring.append(Entry { partition: 0, next: offset + 1, since: offset, body });
        assert!(budget.used() <= 10_000 && ring.len() <= 51);
        assert_eq!(budget.used(), ring.bytes());
    }
    ring.evict(10_000);
    assert_eq!(ring.len(), 1, "the newest entry stays whatever its age");
    drop(ring);
    assert_eq!(budget.used(), 0);
}

/// A ring of messages of 100 bytes and what it keeps of `count`.
fn filled(share: &Arc<Share>, count: i64) -> Ring {
    let mut ring = Ring::new(Bounds { messages: 1000, bytes: 100_000, age: 50 }, share.clone());
    ring.reset(Incarnation::new("t", b"1"), vec![0], vec![0]);
    fill(&mut ring, 0..count);
    ring
}

fn fill(ring: &mut Ring, offsets: std::ops::Range<i64>) {
    for offset in offsets {
        let payload = Some(vec![0; 100].into());
        let record =
            Record { partition: 0, offset, timestamp: None, key: None, headers: Vec::new(), payload };
        let body = Body::Message(Arc::new(record));
        ring.append(Entry { partition: 0, next: offset + 1, since: 0, body });
    }
}

#[test]
fn the_rings_of_an_api_give_no_more_than_an_equal_part_to_another() {
    let budget = Arc::new(Budget::new(100_000));
    let (greedy, modest) = (Share::of(&budget), Share::of(&budget));
    let modest = filled(&modest, 100);
    let (kept, size) = (modest.len(), modest.bytes() / modest.len());
    assert_eq!(kept, 100);
    let mut rings: Vec<Ring> = (0..10).map(|_| filled(&greedy, 100)).collect();
    for ring in &mut rings {
        fill(ring, 100..300);
    }
    let mut modest = modest;
    fill(&mut modest, 100..150);
    assert_eq!(modest.len(), 150, "less than its part: it keeps all");
    rings.iter_mut().for_each(|ring| ring.evict(0));
    let held: usize = rings.iter().map(Ring::bytes).sum();
    assert!(budget.used() <= 100_000 + size, "{} of 100,000", budget.used());
    assert!(held >= 50_000 - 10 * size, "the rest is the other's, not nobody's: {held}");
}

#[test]
fn positions_follow_the_entries() {
    let mut ring = ring(100, &[10, 20]);
    put(&mut ring, 1, 20);
    put(&mut ring, 0, 10);
    put(&mut ring, 1, 21);
    let first = ring.first();
    assert_eq!(ring.positions_at(first), [10, 20]);
    assert_eq!(ring.positions_at(first + 1), [10, 21]);
    assert_eq!(ring.positions_at(first + 2), [11, 21]);
    assert_eq!(ring.positions_at(first + 3), [11, 22]);
}
