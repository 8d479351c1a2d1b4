//! Who answers questions of chance: [`Seeded`] for runs, [`Scripted`] and [`Recording`] for replays, [`explore`] for
//! every outcome with its exact chance. Whoever asks is in the models (`base::dice`).
//!
//! The law of streams: what one [`Stream`] draws depends on the seed and on its own earlier draws, on nothing else.
//! So an added pod, flow or fault shifts nobody else's luck.

use podwire_models::base::hash::combine;
use podwire_models::base::{Dice, FxIndexMap, Purpose, Ratio, Stream};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Draws from generators that derive from one seed, one for each stream (`ChaCha` with 8 rounds).
#[derive(Clone, Debug)]
pub struct Seeded {
    seed: u64,
    streams: FxIndexMap<Stream, ChaCha8Rng>,
}

impl Seeded {
    /// Returns the dice of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            streams: FxIndexMap::default(),
        }
    }

    /// Returns the seed.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    fn generator(&mut self, stream: Stream) -> &mut ChaCha8Rng {
        let seed = self.seed;
        self.streams.entry(stream).or_insert_with(|| {
            let name = combine(purpose_number(stream.purpose), stream.key);
            let mut key = [0; 32];
            let words = [
                seed,
                combine(seed, name),
                stream.key,
                purpose_number(stream.purpose),
            ];
            for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            ChaCha8Rng::from_seed(key)
        })
    }
}

impl Dice for Seeded {
    fn chance(&mut self, stream: Stream, p: Ratio) -> bool {
        if p == Ratio::ZERO || p == Ratio::ONE {
            return p == Ratio::ONE;
        }
        below_wide(self.generator(stream), p.denominator()) < p.numerator()
    }

    fn pick(&mut self, stream: Stream, n: u64) -> u64 {
        assert!(n > 0, "there must be something to pick from");
        below(self.generator(stream), n)
    }
}

/// A number that stays the same when purposes are added in between.
const fn purpose_number(purpose: Purpose) -> u64 {
    match purpose {
        Purpose::LoadBalance => 1,
        Purpose::Loss => 2,
        Purpose::SourcePort => 3,
        Purpose::NatPort => 4,
        Purpose::Identifier => 5,
        Purpose::Name => 6,
        Purpose::Delay => 7,
        Purpose::Churn => 8,
    }
}

/// Returns a number below `n`, each equally likely (Lemire 2019, "Fast random integer generation in an interval").
fn below(generator: &mut ChaCha8Rng, n: u64) -> u64 {
    loop {
        let product = u128::from(generator.next_u64()) * u128::from(n);
        let low = product & u128::from(u64::MAX);
        if low >= u128::from(n.wrapping_neg() % n) {
            return u64::try_from(product >> 64).expect("a product of two 64-bit numbers, halved");
        }
    }
}

/// The same for numbers of any size: by rejection where they do not fit into 64 bits.
fn below_wide(generator: &mut ChaCha8Rng, n: u128) -> u128 {
    if let Ok(n) = u64::try_from(n) {
        return u128::from(below(generator, n));
    }
    let mask = u128::MAX >> n.leading_zeros();
    loop {
        let drawn = u128::from(generator.next_u64()) << 64 | u128::from(generator.next_u64());
        if drawn & mask < n {
            return drawn & mask;
        }
    }
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Does it happen, with this chance? The answers are 0 and 1.
    Chance(Ratio),
    /// Which of this many? The answers are `0..n`.
    Pick(u64),
}

/// One question with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Who asked, and what for.
    pub stream: Stream,
    /// What was asked.
    pub question: Question,
    /// What was answered.
    pub answer: u64,
}

/// Passes every question on and writes it down with its answer.
#[derive(Clone, Debug, Default)]
pub struct Recording<D> {
    /// Who answers.
    pub inner: D,
    /// All questions so far, in order.
    pub draws: Vec<Draw>,
}

impl<D> Recording<D> {
    /// Returns a recording of what `inner` answers.
    pub const fn new(inner: D) -> Self {
        Self {
            inner,
            draws: Vec::new(),
        }
    }
}

impl<D: Dice> Dice for Recording<D> {
    fn chance(&mut self, stream: Stream, p: Ratio) -> bool {
        let happens = self.inner.chance(stream, p);
        let (question, answer) = (Question::Chance(p), u64::from(happens));
        self.draws.push(Draw {
            stream,
            question,
            answer,
        });
        happens
    }

    fn pick(&mut self, stream: Stream, n: u64) -> u64 {
        let answer = self.inner.pick(stream, n);
        self.draws.push(Draw {
            stream,
            question: Question::Pick(n),
            answer,
        });
        answer
    }
}

/// The first question of a replay that was not the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("draw {number} differs: the recording has {recorded:?}, the replay asked {asked:?}")]
pub struct Mismatch {
    /// Which question, starting with 0.
    pub number: usize,
    /// What the recording has there; nothing if it is at its end.
    pub recorded: Option<Draw>,
    /// What was asked instead; nothing if the replay ended early.
    pub asked: Option<(Stream, Question)>,
}

/// Gives recorded answers again. After the first mismatch every answer is no, or the first.
#[derive(Clone, Debug)]
pub struct Scripted {
    draws: Vec<Draw>,
    asked: usize,
    mismatch: Option<Mismatch>,
}

impl Scripted {
    /// Returns a replay of these draws.
    pub const fn new(draws: Vec<Draw>) -> Self {
        Self {
            draws,
            asked: 0,
            mismatch: None,
        }
    }

    /// Ends the replay.
    ///
    /// # Errors
    /// If a question was not the recorded one, or recorded answers are left over.
    pub fn finish(self) -> Result<(), Box<Mismatch>> {
        if let Some(mismatch) = self.mismatch {
            return Err(Box::new(mismatch));
        }
        match self.draws.get(self.asked) {
            None => Ok(()),
            Some(&left) => Err(Box::new(Mismatch {
                number: self.asked,
                recorded: Some(left),
                asked: None,
            })),
        }
    }

    fn answer(&mut self, stream: Stream, question: Question) -> u64 {
        let recorded = self.draws.get(self.asked).copied();
        let number = self.asked;
        self.asked += 1;
        match recorded {
            Some(draw)
                if self.mismatch.is_none()
                    && draw.stream == stream
                    && draw.question == question =>
            {
                draw.answer
            }
            _ => {
                let asked = Some((stream, question));
                self.mismatch.get_or_insert(Mismatch {
                    number,
                    recorded,
                    asked,
                });
                0
            }
        }
    }
}

impl Dice for Scripted {
    fn chance(&mut self, stream: Stream, p: Ratio) -> bool {
        self.answer(stream, Question::Chance(p)) == 1
    }

    fn pick(&mut self, stream: Stream, n: u64) -> u64 {
        self.answer(stream, Question::Pick(n))
    }
}

/// Follows one path through the tree of all answers: a given beginning, then the first answer to everything.
/// Questions whose purpose is not load balancing or loss get one seeded answer and open no branch.
#[derive(Clone, Debug)]
pub struct Exhaustive {
    seeded: Seeded,
    path: Vec<Branch>,
    depth: usize,
    chance: Ratio,
}

/// One question on the way, and which of its answers is being followed.
#[derive(Clone, Copy, Debug)]
struct Branch {
    question: Question,
    /// Number of the answer followed, in the order tried: yes before no, then ascending.
    tried: u64,
}

impl Branch {
    const fn answers(self) -> u64 {
        match self.question {
            Question::Chance(_) => 2,
            Question::Pick(n) => n,
        }
    }

    fn chance(self) -> Ratio {
        match self.question {
            Question::Chance(p) if self.tried == 0 => p,
            Question::Chance(p) => p.complement(),
            Question::Pick(n) => Ratio::new(1, u128::from(n)),
        }
    }
}

impl Exhaustive {
    /// Returns the number of the answer to follow here.
    fn follow(&mut self, question: Question) -> u64 {
        if self.depth == self.path.len() {
            self.path.push(Branch { question, tried: 0 });
        }
        let branch = *self
            .path
            .get(self.depth)
            .expect("a branch was added where none was");
        assert!(
            branch.question == question,
            "the same answers must lead to the same questions: {:?} became {question:?}",
            branch.question
        );
        self.depth += 1;
        self.chance = self.chance * branch.chance();
        branch.tried
    }

    /// Returns the beginning of the next path, or nothing if this was the last one.
    fn next_path(mut self) -> Option<Vec<Branch>> {
        self.path.truncate(self.depth);
        while let Some(branch) = self.path.last_mut() {
            branch.tried += 1;
            if branch.tried < branch.answers() {
                return Some(self.path);
            }
            self.path.pop();
        }
        None
    }
}

/// Whether every answer is tried.
const fn branches(purpose: Purpose) -> bool {
    match purpose {
        Purpose::LoadBalance | Purpose::Loss => true,
        Purpose::SourcePort
        | Purpose::NatPort
        | Purpose::Identifier
        | Purpose::Name
        | Purpose::Delay
        | Purpose::Churn => false,
    }
}

impl Dice for Exhaustive {
    fn chance(&mut self, stream: Stream, p: Ratio) -> bool {
        if p == Ratio::ZERO || p == Ratio::ONE {
            p == Ratio::ONE
        } else if branches(stream.purpose) {
            self.follow(Question::Chance(p)) == 0
        } else {
            self.seeded.chance(stream, p)
        }
    }

    fn pick(&mut self, stream: Stream, n: u64) -> u64 {
        assert!(n > 0, "there must be something to pick from");
        if branches(stream.purpose) && n > 1 {
            self.follow(Question::Pick(n))
        } else {
            self.seeded.pick(stream, n)
        }
    }
}

/// Runs `experiment` once for every way chance can decide, depth first, and returns each result with its chance.
/// The chances add up to one. The experiment must start from the same state every time.
pub fn explore<T>(seed: u64, experiment: impl FnMut(&mut Exhaustive) -> T) -> Vec<(Ratio, T)> {
    explore_within(seed, usize::MAX, experiment).unwrap_or_default()
}

/// There are more outcomes than somebody is willing to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chance can decide in more than {limit} ways")]
pub struct TooManyOutcomes {
    /// How many are allowed.
    pub limit: usize,
}

/// Does the same as [`explore`], and gives up after `limit` outcomes.
///
/// # Errors
/// If there are more.
pub fn explore_within<T>(
    seed: u64,
    limit: usize,
    mut experiment: impl FnMut(&mut Exhaustive) -> T,
) -> Result<Vec<(Ratio, T)>, TooManyOutcomes> {
    let mut outcomes = Vec::new();
    let mut path = Some(Vec::new());
    while let Some(beginning) = path {
        if outcomes.len() == limit {
            return Err(TooManyOutcomes { limit });
        }
        let seeded = Seeded::new(seed);
        let mut dice = Exhaustive {
            seeded,
            path: beginning,
            depth: 0,
            chance: Ratio::ONE,
        };
        let result = experiment(&mut dice);
        outcomes.push((dice.chance, result));
        path = dice.next_path();
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn balance(key: u64) -> Stream {
        Stream::new(Purpose::LoadBalance, key)
    }

    /// kube-proxy's way to choose among `n` endpoints: one rule each with chance 1/n, 1/(n-1), …
    fn endpoint(dice: &mut impl Dice, n: u64) -> u64 {
        (0..n)
            .find(|i| dice.chance(balance(7), Ratio::new(1, u128::from(n - i))))
            .expect("the last rule always matches")
    }

    #[test]
    fn every_endpoint_is_equally_likely() {
        let outcomes = explore(1, |dice| endpoint(dice, 3));
        let third = Ratio::new(1, 3);
        assert_eq!(outcomes, [(third, 0), (third, 1), (third, 2)]);
    }

    #[test]
    fn only_decisions_branch() {
        let outcomes = explore(1, |dice| {
            let port = dice.pick(Stream::named(Purpose::SourcePort, "a"), 28_000);
            (port, dice.pick(balance(1), 2))
        });
        assert_eq!(outcomes.len(), 2);
        assert_eq!(outcomes[0].1.0, outcomes[1].1.0);
    }

    #[test]
    fn gives_up_when_told_to() {
        let limit = 9;
        let result = explore_within(1, limit, |dice| dice.pick(balance(1), 10));
        assert_eq!(result, Err(TooManyOutcomes { limit }));
        assert!(explore_within(1, 10, |dice| dice.pick(balance(1), 10)).is_ok());
    }

    #[test]
    fn draws_are_the_same_for_ever() {
        let mut dice = Seeded::new(1);
        let stream = Stream::named(Purpose::LoadBalance, "pod/shop/frontend");
        let draws: Vec<u64> = (0..6).map(|_| dice.pick(stream, 100)).collect();
        assert_eq!(
            draws,
            [25, 31, 11, 63, 56, 62],
            "changing these changes every golden trace"
        );
    }

    #[test]
    fn a_replay_reports_the_first_difference() {
        let mut dice = Recording::new(Seeded::new(3));
        dice.pick(balance(1), 5);
        dice.pick(balance(2), 5);
        let draws = dice.draws;
        let mut replay = Scripted::new(draws.clone());
        assert_eq!(replay.pick(balance(1), 5), draws[0].answer);
        replay.pick(balance(2), 6);
        replay.pick(balance(3), 6);
        let mismatch = replay.finish().unwrap_err();
        assert_eq!((mismatch.number, mismatch.recorded), (1, Some(draws[1])));
        let early = Scripted::new(draws).finish().unwrap_err();
        assert_eq!((early.number, early.asked), (0, None));
    }

    #[derive(Clone, Debug)]
    enum Ask {
        Chance(u64, u128, u128),
        Pick(u64, u64),
    }

    fn ask() -> impl Strategy<Value = Ask> {
        prop_oneof![
            (0..3_u64, 0..=6_u128, 1..=6_u128).prop_map(|(key, n, d)| Ask::Chance(
                key,
                n.min(d),
                d
            )),
            (0..3_u64, 1..=4_u64).prop_map(|(key, n)| Ask::Pick(key, n)),
        ]
    }

    fn put(dice: &mut impl Dice, questions: &[Ask]) -> Vec<u64> {
        let answer = |question: &Ask| match *question {
            Ask::Chance(key, n, d) => u64::from(dice.chance(balance(key), Ratio::new(n, d))),
            Ask::Pick(key, n) => dice.pick(balance(key), n),
        };
        questions.iter().map(answer).collect()
    }

    proptest! {
        #[test]
        fn chances_add_up_to_one(seed: u64, questions in prop::collection::vec(ask(), 0..6)) {
            // Later questions depend on earlier answers, as they do in a cluster.
            let outcomes = explore(seed, |dice| {
                let first = put(dice, questions.get(..1).unwrap_or_default());
                let skip = usize::from(first == [1]);
                (first, put(dice, questions.get(1 + skip..).unwrap_or_default()))
            });
            let sum = outcomes.iter().fold(Ratio::ZERO, |sum, (chance, _)| sum + *chance);
            prop_assert_eq!(sum, Ratio::ONE);
            for (n, (chance, answers)) in outcomes.iter().enumerate() {
                prop_assert!(*chance > Ratio::ZERO);
                prop_assert!(outcomes[..n].iter().all(|(_, earlier)| earlier != answers));
            }
        }

        #[test]
        fn a_replay_gives_the_same_answers(
            seed: u64, questions in prop::collection::vec(ask(), 0..50)
        ) {
            let mut recording = Recording::new(Seeded::new(seed));
            let answers = put(&mut recording, &questions);
            let mut replay = Scripted::new(recording.draws);
            prop_assert_eq!(put(&mut replay, &questions), answers);
            prop_assert_eq!(replay.finish(), Ok(()));
        }

        #[test]
        fn streams_do_not_disturb_each_other(
            seed: u64,
            mine in prop::collection::vec(1..1000_u64, 1..30),
            others in prop::collection::vec((0..4_u64, 1..1000_u64), 30),
        ) {
            let stream = Stream::named(Purpose::LoadBalance, "mine");
            let mut alone = Seeded::new(seed);
            let expected: Vec<u64> = mine.iter().map(|n| alone.pick(stream, *n)).collect();
            let mut crowded = Seeded::new(seed);
            let found: Vec<u64> = mine.iter().zip(&others).map(|(n, (key, m))| {
                crowded.pick(balance(*key), *m);
                crowded.pick(Stream::new(Purpose::Loss, stream.key), *m);
                crowded.pick(stream, *n)
            }).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn picks_stay_below(seed: u64, n in 1..=u64::MAX) {
            prop_assert!(Seeded::new(seed).pick(balance(0), n) < n);
        }
    }
}
