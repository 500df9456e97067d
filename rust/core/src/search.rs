//! One query's way: project, probe, candidates, sketch, rescore, top-k.

use std::time::Instant;

use crate::batch::Workspace;
use crate::candidates::{Meeting, Union};
use crate::columns::Columns;
use crate::coordinates::Rounded;
use crate::elementary::ln;
use crate::error::{Error, Result};
use crate::exact;
use crate::exemplars::{ExemplarSketcher, Exemplars, SKETCH_BYTES};
use crate::fitted::{Fitted, ListPoint, Reads, Scan};
use crate::hash::{Space, augment, code, lead};
use crate::index::Answers;
use crate::kernels::Kernel;
use crate::memory::pad;
use crate::observed::{Found, Observation, Observed};
use crate::probe::Probes;
use crate::regions::{Nearest, Place, Region, Regions};
use crate::rows::Rows;
use crate::shortlist::{Shortlist, list_best};
use crate::sketch::{SketchQuery, SketchView, Sketcher, Sketches};
use crate::sums::sum;
use crate::tables::Bucket;
use crate::topk::{Few, TopK};
use crate::trust::{Features, LISTED, Listed, Met, NOWHERE, Scanned, Trust, share_needed, trust_in_list};

/// What to do when a query has fewer candidates than answers are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShort {
    /// Fill up with label -1 and score -inf.
    Pad,
    /// Score all rows.
    Exact,
    /// Report [`Error::Short`].
    Raise,
}

impl OnShort {
    /// From the name that the API uses.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "pad" => Ok(OnShort::Pad),
            "exact" => Ok(OnShort::Exact),
            "raise" => Ok(OnShort::Raise),
            _ => Err(Error::value("on_short", "'pad', 'exact' or 'raise'", format!("'{name}'"))),
        }
    }
}

/// How far a search goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Begin with the list of the query's region, where there is one, and go on while an answer is not trusted, as the
    /// operating point says. Otherwise tables are all.
    pub adaptive: bool,
    /// Cost in full rows, of all steps together, that scans and exact searches must not exceed.
    pub max_cost: f64,
}

impl Effort {
    /// Go as far as it takes.
    pub const ADAPTIVE: Effort = Effort { adaptive: true, max_cost: f64::INFINITY };

    /// Stay with the tables.
    pub const FIXED: Effort = Effort { adaptive: false, max_cost: f64::INFINITY };
}

/// How far a search went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The list of the query's region.
    List,
    /// Candidates from tables.
    #[default]
    Tables,
    /// All rows by columns, and the best of these by their sketches.
    Scan,
    /// All rows.
    Exact,
}

/// What a search cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Buckets visited.
    pub probes: usize,
    /// Ids read from them, repeats included.
    pub entries: usize,
    /// Exemplars whose labels became candidates.
    pub neighbors: usize,
    /// Labels that were looked at, each once.
    pub candidates: usize,
    /// Rows scored in full precision.
    pub rescored: usize,
    /// How far it went.
    pub step: Step,
    /// Probability that the candidates hold the full layer's best labels, or that the answer of a list or a scan is
    /// the full layer's, as far as the index can tell; NaN if it cannot.
    pub trust: f32,
}

impl Work {
    /// Of exact search among `m` rows, `rescored` of them scored in full precision.
    pub(crate) fn exact(m: usize, rescored: usize) -> Self {
        Work { candidates: m, rescored, step: Step::Exact, trust: 1.0, ..Work::default() }
    }
}

/// The stages of a search's first step, in order: the list of a region has no probes, exemplars and candidates, and rows in
/// bytes for sketches; tables have no region and columns.
pub const STAGES: [&str; 8] =
    ["project", "region", "columns", "probe", "exemplars", "candidates", "sketch", "rescore"];

/// Everything that one search writes to. Reused, so that the steady state allocates nothing.
#[derive(Default)]
pub struct Scratch {
    query: Vec<f32>,
    rounded: Rounded,
    /// Whether that, and all of `z`, are this query's already.
    in_bytes: bool,
    projected: bool,
    /// Where it lies, and what that says of how far it reads, if that is known.
    near: Option<(Nearest, f32)>,
    z: Vec<f32>,
    x: Vec<f32>,
    margins: Vec<f32>,
    probes: Probes,
    /// Where to look, the most promising first, and what each costs to flip to.
    buckets: Vec<usize>,
    costs: Vec<f32>,
    probed: Probed,
    /// Square of the query's distance to the mean query, where exemplars tell.
    square: f32,
    exemplars: Meeting,
    observed: Meeting,
    neighbors: Vec<u32>,
    candidates: Union,
    finalists: Vec<u32>,
    estimates: Vec<f32>,
    logits: Vec<f32>,
    distances: Vec<f32>,
    scanned: (Vec<u32>, Vec<f32>),
    ranked: Ranked,
    place: Place,
    /// Coordinates in a region.
    local: Vec<f32>,
    /// The labels that are candidates of every query, and those of a list whose columns promise most.
    listed: Vec<u32>,
    /// Their logits from rows in bytes, and that of the mean of all rows.
    reread: Vec<f32>,
    level: f32,
    answer: (Vec<i64>, Vec<f32>),
    cut: Cut,
    few: Few,
    best: TopK,
    shortlist: Shortlist,
    /// Those of queries that are scanned together.
    turns: Vec<Shortlist>,
    /// Room for an answer, for callers that have none.
    pub room: (Vec<i64>, Vec<f32>),
    /// What batches need beside.
    pub(crate) workspace: Workspace,
}

/// What a list and its columns say of the listed labels.
#[derive(Default)]
struct Ranked {
    /// Where they stand in the list; the first for those that are in none.
    places: Vec<u32>,
    /// What columns promise of those that are, where they were asked.
    promised: Vec<f32>,
    /// The most that they promise of others; -inf where they were not asked.
    floor: f32,
}

/// How far the probing of a query has come.
#[derive(Clone, Copy, Default)]
struct Probed {
    /// Buckets and entries that are enough, whatever is found.
    most_buckets: usize,
    most_entries: usize,
    /// Buckets visited, and those of them whose exemplars have been met.
    buckets: usize,
    met: usize,
    /// Entries in them.
    entries: usize,
    /// No other is visited.
    over: bool,
}

impl Scratch {
    /// Answers of the last search.
    pub(crate) fn answers(&self) -> usize {
        self.answer.0.len()
    }

    /// Take a copy of the query.
    pub fn load(&mut self, query: &[f32]) {
        pad(query, &mut self.query);
        (self.in_bytes, self.projected, self.near) = (false, false, None);
    }

    /// The same, and of its coordinates, where these are known, and what [`Searcher::begin`] has found.
    pub fn load_placed(&mut self, query: &[f32], z: &[f32], begin: Begin) {
        self.load(query);
        self.z.clear();
        self.z.extend_from_slice(z);
        (self.projected, self.near) = (!z.is_empty(), begin.near);
    }

    /// Keep what a scan needs, while this is used for other queries.
    pub fn put_aside(&self, aside: &mut Aside) {
        /// Leaves room for as much as there has ever been.
        fn copy<T: Copy>(from: &Vec<T>, to: &mut Vec<T>) {
            to.clear();
            to.reserve(from.capacity());
            to.extend_from_slice(from);
        }
        copy(&self.z, &mut aside.z);
        copy(&self.finalists, &mut aside.finalists);
        copy(&self.estimates, &mut aside.estimates);
        copy(&self.logits, &mut aside.logits);
    }

    /// Go on with that, for the same query, loaded anew, of which the shortlist is that of its turn.
    pub fn take_up(&mut self, aside: &Aside, turn: usize) {
        self.finalists.clone_from(&aside.finalists);
        self.estimates.clone_from(&aside.estimates);
        self.logits.clone_from(&aside.logits);
        if let Some(turn) = self.turns.get(turn) {
            self.shortlist.copy(turn);
        }
    }

    /// The query's coordinates, once they are known.
    pub fn coordinates(&self) -> &[f32] {
        &self.z
    }
}

/// How far a search has come.
pub enum Reached {
    /// It is over.
    Answer(Work),
    /// Tables have answered, but are not trusted: a scan is next.
    Scan(Doubt),
}

/// What goes on with a search from tables to a scan, beside what its scratch holds.
#[derive(Clone, Copy, Default)]
pub struct Doubt {
    work: Work,
    /// With the scan's.
    cost: f64,
    /// Labels of a list that were scored.
    listed: usize,
}

/// A query's coordinates, and of what tables have found for it what a scan adds to.
#[derive(Default)]
pub struct Aside {
    z: Vec<f32>,
    finalists: Vec<u32>,
    estimates: Vec<f32>,
    logits: Vec<f32>,
}

impl Aside {
    /// The query's coordinates.
    pub fn coordinates(&self) -> &[f32] {
        &self.z
    }
}

/// Where a query begins to search: those of which this is the same read the same memory.
#[derive(Clone, Copy, Default)]
pub struct Begin {
    /// The region, where lists are read first, else the first table's bucket.
    pub place: u32,
    near: Option<(Nearest, f32)>,
}

/// How far a list has been read.
struct Reading {
    near: Nearest,
    /// What is to be read, and labels read.
    reads: Reads,
    n: usize,
    /// Rows read in bytes, and in full precision.
    reread: usize,
    rescored: usize,
}

impl Reading {
    /// Whether there are more.
    fn more(&self) -> bool {
        self.n < self.reads.all
    }
}

/// The parts of an index that a search reads.
#[derive(Clone, Copy)]
pub struct Searcher<'a> {
    pub(crate) rows: &'a Rows,
    pub(crate) fitted: &'a Fitted,
    pub(crate) kernel: Kernel,
}

impl Searcher<'_> {
    /// Answer the loaded query. `labels` and `scores` hold k places.
    pub fn search(
        &self,
        scratch: &mut Scratch,
        on_short: OnShort,
        effort: Effort,
        labels: &mut [i64],
        scores: &mut [f32],
    ) -> Result<Work> {
        match self.until_scan(scratch, on_short, effort, labels, scores)? {
            Reached::Answer(work) => Ok(work),
            Reached::Scan(doubt) => {
                self.shortlist(scratch, self.answers(labels.len()));
                self.scan(scratch, doubt, on_short, effort, labels, scores)
            }
        }
    }

    /// The same, but for a scan, where one is needed: that is [`Searcher::scan`].
    pub fn until_scan(
        &self,
        scratch: &mut Scratch,
        on_short: OnShort,
        effort: Effort,
        labels: &mut [i64],
        scores: &mut [f32],
    ) -> Result<Reached> {
        let (k, point) = (labels.len(), &self.fitted.point);
        let all = self.rows.m() as f64;
        if point.exact && all <= effort.max_cost {
            return Ok(Reached::Answer(self.exact(scratch, labels, scores)));
        }
        let answers = self.answers(k);
        let (mut cost, mut listed) = (0.0, 0);
        if let Some((list, regions)) = self.lists(effort) {
            let mut reading = self.by_list(scratch, regions, list, answers);
            let near = reading.near;
            let trusted = |scratch: &Scratch, judge: &[f32; LISTED], least: f32| {
                let few = scratch.finalists.len() < answers;
                let listed = self.listed(scratch, self.answers(1), near);
                let trust = if few { 0.0 } else { trust_in_list(judge, &listed) };
                (trust, !doubted(trust, least))
            };
            let first = list.first.as_ref().filter(|_| reading.more());
            let first = first.map(|first| trusted(scratch, &first.judge, first.trust));
            let (trust, enough) = first.filter(|&(_, enough)| enough).unwrap_or_else(|| {
                self.read_on(scratch, regions, &mut reading, answers);
                trusted(scratch, &list.judge, list.trust)
            });
            cost += self.list_cost(regions, &reading);
            if scratch.finalists.len() >= k && enough {
                labels.copy_from_slice(&scratch.answer.0[..k]);
                scores.copy_from_slice(&scratch.answer.1[..k]);
                return Ok(Reached::Answer(Work {
                    candidates: reading.n + self.fitted.always_include.len(),
                    rescored: reading.rescored,
                    step: Step::List,
                    trust,
                    ..Work::default()
                }));
            }
            listed = reading.rescored;
        }
        let mut work = self.candidates(scratch);
        self.by_tables(scratch, answers);
        work.trust = f32::NAN;
        cost += self.tables_cost(&work, scratch.finalists.len());
        if let Some(judge) = &point.judge {
            work.trust = self.trust(judge, scratch, answers);
            let cost = cost + self.scan_cost(answers);
            if effort.adaptive && doubted(work.trust, point.trust) && cost <= effort.max_cost {
                return Ok(Reached::Scan(Doubt { work, cost, listed }));
            }
        }
        work.rescored = listed + scratch.finalists.len();
        self.end(work, cost, scratch, on_short, effort, labels, scores).map(Reached::Answer)
    }

    /// Answer the loaded query, which tables have not answered well enough, by its shortlist, made before.
    pub fn scan(
        &self,
        scratch: &mut Scratch,
        doubt: Doubt,
        on_short: OnShort,
        effort: Effort,
        labels: &mut [i64],
        scores: &mut [f32],
    ) -> Result<Work> {
        let Doubt { mut work, cost, listed } = doubt;
        let m = self.rows.m();
        self.by_shortlist(scratch, self.answers(labels.len()), 0);
        (work.step, work.candidates) = (Step::Scan, m);
        work.rescored = listed + scratch.finalists.len();
        if let Some(judge) = &self.fitted.point.judge {
            work.trust = judge.of_scan(&scanned(scratch, judge.k));
        }
        if doubted(work.trust, self.fitted.point.scan_trust) && cost + m as f64 <= effort.max_cost {
            return Ok(self.exact_after(work, scratch, labels, scores));
        }
        self.end(work, cost, scratch, on_short, effort, labels, scores)
    }

    /// Hand out the answer, or do what `on_short` says where there are too few candidates for one.
    #[allow(clippy::too_many_arguments, reason = "what has been done, what was asked for, and where to")]
    fn end(
        &self,
        work: Work,
        cost: f64,
        scratch: &Scratch,
        on_short: OnShort,
        effort: Effort,
        labels: &mut [i64],
        scores: &mut [f32],
    ) -> Result<Work> {
        let (k, m) = (labels.len(), self.rows.m());
        match on_short {
            _ if work.candidates >= k => {}
            OnShort::Raise => return Err(Error::Short { query: 0, found: work.candidates, k }),
            OnShort::Exact if cost + m as f64 <= effort.max_cost => {
                return Ok(self.exact_after(work, scratch, labels, scores));
            }
            _ => {}
        }
        labels.copy_from_slice(&scratch.answer.0[..k]);
        scores.copy_from_slice(&scratch.answer.1[..k]);
        Ok(work)
    }

    /// The lists that are read first, and how much of them, where they are.
    pub fn lists(&self, effort: Effort) -> Option<(&ListPoint, &Regions)> {
        self.fitted.point.list.as_ref().zip(self.fitted.regions.as_deref()).filter(|_| effort.adaptive)
    }

    /// Answers looked for where `k` are asked for: as many as trust is about.
    fn answers(&self, k: usize) -> usize {
        k.max(self.fitted.point.judge.map_or(0, |trust| trust.k))
    }

    /// Answer the loaded query from the list of its region, read as far as the point says, and say what the answer shows of
    /// itself.
    pub fn read_list(
        &self,
        scratch: &mut Scratch,
        regions: &Regions,
        list: &ListPoint,
        labels: &mut [i64],
    ) -> [f32; LISTED] {
        let mut reading = self.by_list(scratch, regions, list, labels.len());
        self.read_on(scratch, regions, &mut reading, labels.len());
        labels.copy_from_slice(&scratch.answer.0);
        self.listed(scratch, labels.len(), reading.near).features()
    }

    /// Answer the loaded query twice, by tables and by a scan, and say what either shows of itself, and whether the
    /// candidates hold the labels of `full`.
    pub fn compare(
        &self,
        scratch: &mut Scratch,
        full: &[i64],
        [by_tables, by_scan]: [&mut [i64]; 2],
    ) -> Features {
        let k = by_tables.len();
        self.candidates(scratch);
        let held = full
            .iter()
            .all(|&label| u32::try_from(label).is_ok_and(|label| scratch.candidates.count(label) > 0));
        self.by_tables(scratch, k);
        let met = self.met(scratch, k);
        by_tables.copy_from_slice(&scratch.answer.0);
        self.by_scan(scratch, k, 0);
        by_scan.copy_from_slice(&scratch.answer.0);
        Features::new(&met, &scanned(scratch, k), held)
    }

    /// See what the loaded query needs: its true labels, and where the answer by tables is not trusted, or lacks one
    /// of these, the `t` best of a scan. One that is an exemplar already, and needs no more than that, is not found again.
    pub fn observe(
        &self,
        scratch: &mut Scratch,
        sketcher: &ExemplarSketcher,
        labels: &[u32],
        t: usize,
    ) -> Observation {
        let point = &self.fitted.point;
        let answers = self.answers(1);
        self.candidates(scratch);
        let neighbors = scratch.neighbors.clone();
        let lacks = labels.iter().any(|&label| scratch.candidates.count(label) == 0);
        self.by_tables(scratch, answers);
        if !lacks
            && point.judge.is_some_and(|trust| !doubted(self.trust(&trust, scratch, answers), point.trust))
        {
            return Observation { neighbors, found: None };
        }
        self.by_scan(scratch, answers, t);
        scratch.best.reset(t.min(scratch.finalists.len()));
        scratch.best.extend(&scratch.logits, &scratch.finalists);
        let mut needed = Vec::new();
        scratch.best.unordered(&mut needed, &mut scratch.scanned.1);
        needed.extend_from_slice(labels);
        needed.sort_unstable();
        needed.dedup();
        let mut sketch = [0; SKETCH_BYTES];
        sketcher.encode(&scratch.z, &mut sketch);
        let codes = self.fitted.planes.codes(&scratch.margins).collect();
        let found = Found { codes, sketch, labels: needed };
        let is_told = |&neighbor: &u32| {
            self.fitted.exemplar(neighbor).is_some_and(|(sketch, labels)| found.is_told_by(sketch, labels))
        };
        if found.labels.is_empty() || neighbors.iter().any(is_told) {
            return Observation { neighbors, found: None };
        }
        Observation { neighbors, found: Some(found) }
    }

    /// How far the candidates are to be trusted. Where there are fewer than `answers`, they are not.
    fn trust(&self, trust: &Trust, scratch: &Scratch, answers: usize) -> f32 {
        if scratch.finalists.len() < answers {
            return 0.0;
        }
        trust.of_tables(&self.met(scratch, trust.k))
    }

    /// What a search by tables has cost in full rows: the bytes that it read of exemplars' and rows' sketches by those
    /// of a row, and the rows scored.
    fn tables_cost(&self, work: &Work, rescored: usize) -> f64 {
        let row = self.rows.weights().nbytes() as f64 / self.rows.m() as f64;
        let exemplars = if self.fitted.exemplars.is_some() { work.entries * SKETCH_BYTES } else { 0 };
        let sketches = self.fitted.sketches.as_ref().map_or(0, |(_, sketches)| sketches.layout().bytes());
        (exemplars + work.candidates * sketches) as f64 / row + rescored as f64
    }

    /// What a scan for so many answers costs in full rows: the bytes it reads by those of a row.
    fn scan_cost(&self, answers: usize) -> f64 {
        let m = self.rows.m();
        let row = self.rows.weights().nbytes() as f64 / m as f64;
        let Scan { rescored, nbytes, .. } = self.fitted.scan(answers, m);
        nbytes as f64 / row + rescored as f64
    }

    /// What reading a list has cost in full rows.
    fn list_cost(&self, regions: &Regions, reading: &Reading) -> f64 {
        let row = self.rows.weights().nbytes() as f64 / self.rows.m() as f64;
        let columns = reading.n * regions.layout().bytes();
        let read = columns + reading.reread * regions.rows().map().matrix().stride();
        read as f64 / row + reading.rescored as f64
    }

    /// Answer with `k` labels from the first of the list of the query's region.
    fn by_list(&self, scratch: &mut Scratch, regions: &Regions, list: &ListPoint, k: usize) -> Reading {
        self.lead(scratch, regions);
        let (near, share) = self.region(scratch, regions);
        let region = &regions.each()[near.region];
        let reads = list.reads(regions, near.region, share, k);
        self.read_columns(scratch, region, reads.first, reads.rescored);
        let reread = self.reread(scratch, regions, 0, k);
        self.rescore(scratch, k, CLOSE);
        Reading { near, reads, n: reads.first, reread, rescored: scratch.finalists.len() }
    }

    /// Answer from all of the list that is to be read, where there is more.
    fn read_on(&self, scratch: &mut Scratch, regions: &Regions, reading: &mut Reading, k: usize) {
        let Reading { near, n, reads: Reads { all, rescored, .. }, .. } = *reading;
        if !reading.more() {
            return;
        }
        let Scratch { listed, ranked: Ranked { places, promised, floor }, shortlist, .. } = scratch;
        let region = &regions.each()[near.region];
        let mut kept = shortlist.ids().len();
        if let Some(above) = shortlist.gather_on(self.kernel, region, [n, all], *floor, rescored) {
            (*floor, kept) = (above, 0);
        }
        let always = self.fitted.always_include.len();
        listed.truncate(always + kept);
        places.truncate(always + kept);
        promised.truncate(kept);
        let ids = &shortlist.ids()[kept..];
        listed.extend(ids.iter().map(|&at| region.labels[at as usize]));
        places.extend_from_slice(ids);
        promised.extend_from_slice(&shortlist.scores()[kept..]);
        reading.n = all;
        reading.reread += self.reread(scratch, regions, always + kept, k);
        self.rescore(scratch, k, CLOSE);
        reading.rescored += scratch.finalists.len();
    }

    /// Round the query to bytes, and compute the coordinates that tell how far centers are, where that is not known yet.
    fn lead(&self, scratch: &mut Scratch, regions: &Regions) {
        self.round(scratch);
        let Scratch { z, near, projected, rounded, .. } = scratch;
        if let Some(coordinates) = &self.fitted.coordinates
            && near.is_none()
            && !*projected
        {
            z.resize(regions.centers().weights().len(), 0.0);
            coordinates.apply_first(self.kernel, rounded, z);
        }
    }

    /// Find the query's region, its coordinates there, and how far it reads the list, as a multiple of the average.
    fn region(&self, scratch: &mut Scratch, regions: &Regions) -> (Nearest, f32) {
        let Scratch { z, near, rounded, place, local, .. } = scratch;
        let (near, begun) = near.unwrap_or_else(|| regions.nearest(self.kernel, z, place));
        regions.place(self.kernel, near.region, rounded, local);
        (near, regions.share(begun, local))
    }

    /// List the labels whose columns promise most, about `most` of the first `n` of a region.
    fn read_columns(&self, scratch: &mut Scratch, region: &Region, n: usize, most: usize) {
        let Scratch { local, listed, ranked: Ranked { places, promised, floor }, shortlist, .. } = scratch;
        listed.clear();
        listed.extend_from_slice(&self.fitted.always_include);
        places.clear();
        places.resize(listed.len(), 0);
        promised.clear();
        if most < n {
            *floor = shortlist.gather(self.kernel, region, local, n, most);
            places.extend_from_slice(shortlist.ids());
            promised.extend_from_slice(shortlist.scores());
            listed.extend(shortlist.ids().iter().map(|&at| region.labels[at as usize]));
        } else {
            *floor = f32::NEG_INFINITY;
            places.extend(0..n as u32);
            listed.extend_from_slice(&region.labels[..n]);
        }
    }

    /// Read the listed labels' rows in bytes, but for the first `known`, and the mean of all rows; choose of which to read the
    /// rows themselves. Returns how many were read.
    fn reread(&self, scratch: &mut Scratch, regions: &Regions, known: usize, k: usize) -> usize {
        let Scratch { rounded, listed, reread, level, finalists, estimates, few, .. } = scratch;
        let n = listed.len();
        listed.push(self.rows.m() as u32);
        reread.truncate(known);
        reread.resize(n + 1, 0.0);
        regions.rows().map().apply_ids(self.kernel, rounded, &listed[known..], &mut reread[known..]);
        *level = reread[n];
        listed.truncate(n);
        reread.truncate(n);
        finalists.clone_from(listed);
        estimates.clone_from(reread);
        let most = LEAST_CLOSE.max(k.saturating_mul(2));
        if finalists.len() > most {
            few.leave(self.kernel, most, estimates, finalists);
        }
        few.order(self.kernel, estimates, finalists);
        n + 1 - known
    }

    /// What an answer from a list shows by its best k.
    fn listed(&self, scratch: &Scratch, k: usize, near: Nearest) -> Listed {
        let Scratch { answer, listed, reread, level, ranked, .. } = scratch;
        let (labels, scores) = (&answer.0[..k], &answer.1[..k]);
        let rank = |&label: &i64| {
            let at = listed.iter().position(|&id| i64::from(id) == label);
            at.map_or(0.0, |at| ln(1.0 + ranked.places[at] as f32))
        };
        let [best, kth] = ends(scores);
        let (shift, error) = spread(&reread[self.fitted.always_include.len()..], &ranked.promised);
        Listed {
            distances: near.distances,
            spread: best - kth,
            kth: kth - level,
            rank_best: labels.first().map_or(0.0, rank),
            rank: labels.iter().map(rank).sum::<f32>() / k.max(1) as f32,
            scanned: Scanned { kth, shift, error, cut: ranked.floor },
        }
    }

    /// Answer from the candidates, `k` labels.
    fn by_tables(&self, scratch: &mut Scratch, k: usize) {
        self.estimate(scratch, k);
        self.rescore(scratch, k, COARSE);
    }

    /// Choose the candidates to rescore, `k` at least, by their sketches.
    fn estimate(&self, scratch: &mut Scratch, k: usize) {
        let Scratch { z, candidates, finalists, estimates, cut, .. } = scratch;
        match &self.fitted.sketches {
            Some(sketched) => {
                let (r, all) = (self.fitted.point.n_rescore.max(k), self.fitted.point.judge.is_some());
                cut.best(self.kernel, sketched, z, candidates.ids(), r, all, finalists, estimates);
            }
            None => {
                estimates.clear();
                finalists.clear();
                finalists.extend_from_slice(candidates.ids());
            }
        }
    }

    /// Score them in full precision and choose the best `k`.
    fn rescore(&self, scratch: &mut Scratch, k: usize, pace: Pace) {
        scratch.best.reset(k.min(self.rows.m()));
        scratch.logits.clear();
        self.score(scratch, k, Some(pace));
    }

    /// Score the finalists in full precision that have no logit yet, those of the largest estimates first, until no other is
    /// likely to be among the best `k`: all where no pace is set, or estimates are not known. Choose the best.
    fn score(&self, scratch: &mut Scratch, k: usize, pace: Option<Pace>) {
        let Scratch { query, finalists, estimates, logits, best, cut, answer, .. } = scratch;
        let (mut scored, n) = (logits.len(), finalists.len());
        logits.resize(n, 0.0);
        let Pace { at_first, at_once: later } =
            pace.filter(|_| !estimates.is_empty()).unwrap_or(Pace { at_first: n, at_once: n });
        let mut at_once = k.max(at_first);
        while scored < n {
            let to = n.min(scored + at_once);
            self.rows.logits(self.kernel, query, &finalists[scored..], &mut logits[scored..to]);
            best.extend(&logits[scored..to], &finalists[scored..to]);
            scored = to;
            at_once = later;
            if scored < n
                && let Some(kth) = best.kth()
            {
                let (shift, error) = spread(&logits[..scored], &estimates[..scored]);
                if estimates[scored] + shift + SURE * error < kth {
                    cut.floor = estimates[scored];
                    break;
                }
            }
        }
        finalists.truncate(scored);
        logits.truncate(scored);
        estimates.truncate(scored);
        let (labels, scores) = answer;
        labels.resize(k, 0);
        scores.resize(k, 0.0);
        best.write(labels, scores);
    }

    /// How long each of the [`STAGES`] of a search's first step takes for the loaded query, in seconds.
    pub fn profile(&self, scratch: &mut Scratch, k: usize) -> [f64; STAGES.len()] {
        let mut taken = [0.0; STAGES.len()];
        let mut time = |stage: usize, work: &mut dyn FnMut()| {
            let begin = Instant::now();
            work();
            taken[stage] += begin.elapsed().as_secs_f64();
        };
        let k = self.answers(k);
        if let (Some(list), Some(regions)) = (&self.fitted.point.list, self.fitted.regions.as_deref()) {
            time(0, &mut || self.lead(scratch, regions));
            let mut read = (0, Reads { first: 0, all: 0, rescored: 0 });
            time(1, &mut || {
                let (near, share) = self.region(scratch, regions);
                read = (near.region, list.reads(regions, near.region, share, k));
            });
            let (region, reads) = (&regions.each()[read.0], read.1);
            time(2, &mut || self.read_columns(scratch, region, reads.first, reads.rescored));
            time(6, &mut || _ = self.reread(scratch, regions, 0, k));
            time(7, &mut || self.rescore(scratch, k, CLOSE));
        } else {
            time(0, &mut || self.project(scratch));
            time(3, &mut || self.start_probing(scratch));
            let mut more = true;
            while more {
                time(3, &mut || more = self.probe(scratch));
                if more {
                    time(4, &mut || self.meet(scratch));
                }
            }
            time(4, &mut || self.choose_neighbors(scratch));
            time(5, &mut || self.list(scratch));
            time(6, &mut || self.estimate(scratch, k));
            time(7, &mut || self.rescore(scratch, k, COARSE));
        }
        taken
    }

    /// Answer from the rows that promise most, at least so many, by columns and then by sketches, beside what the tables
    /// found.
    fn by_scan(&self, scratch: &mut Scratch, k: usize, least: usize) {
        self.shortlist(scratch, k.max(least));
        self.by_shortlist(scratch, k, least);
    }

    /// List the rows whose columns promise most, for a scan for so many answers.
    fn shortlist(&self, scratch: &mut Scratch, answers: usize) {
        if let Some((columns, n)) = self.columns(answers) {
            scratch.shortlist.prepare(self.kernel, columns, &scratch.z);
            let one = std::slice::from_mut(&mut scratch.shortlist);
            list_best(self.kernel, columns, self.rows.m(), n, one);
        }
    }

    /// The same for several queries with coordinates `each`, in turns, for `k` answers asked for.
    pub fn shortlist_together<'z>(
        &self,
        scratch: &mut Scratch,
        each: impl ExactSizeIterator<Item = &'z [f32]>,
        k: usize,
    ) {
        if let Some((columns, n)) = self.columns(self.answers(k)) {
            let turns = &mut scratch.turns;
            turns.resize_with(turns.len().max(each.len()), Shortlist::default);
            let turns = &mut turns[..each.len()];
            for (turn, z) in turns.iter_mut().zip(each) {
                turn.prepare(self.kernel, columns, z);
            }
            list_best(self.kernel, columns, self.rows.m(), n, turns);
        }
    }

    /// What a scan for so many answers reads, and how many rows it lists; nothing where it reads sketches alone.
    fn columns(&self, answers: usize) -> Option<(&Columns, usize)> {
        self.fitted.columns.as_ref().zip(self.fitted.scan(answers, self.rows.m()).listed)
    }

    /// Answer from the shortlist, or from all rows where there is none, beside what the tables found.
    fn by_shortlist(&self, scratch: &mut Scratch, k: usize, least: usize) {
        let Fitted { sketches: Some((sketcher, sketches)), columns: Some(_), .. } = self.fitted else {
            return;
        };
        let m = self.rows.m();
        let Scan { rescored: r, listed, .. } = self.fitted.scan(k.max(least), m);
        let Scratch { z, candidates, finalists, estimates, logits, scanned, best, cut, shortlist, .. } =
            scratch;
        cut.start(sketcher, z, r);
        match listed {
            Some(_) => cut.offer(self.kernel, sketches, shortlist.ids(), 0),
            None => cut.offer_all(self.kernel, sketches, m, 0),
        }
        cut.keep(&mut scanned.0, &mut scanned.1);
        // Marks of the candidates have done their work: now they mark what has been scored.
        candidates.start(m);
        candidates.add(finalists);
        best.reset(k.min(m));
        best.extend(logits, finalists);
        // Without trust nobody has asked for the estimates of few candidates.
        let all = least > k || estimates.len() < finalists.len();
        for (&id, &estimate) in scanned.0.iter().zip(&scanned.1) {
            let before = candidates.ids().len();
            candidates.add(&[id]);
            if candidates.ids().len() > before {
                finalists.push(id);
                estimates.push(estimate);
            }
        }
        self.score(scratch, k, (!all).then_some(COARSE));
    }

    /// What a search by tables shows by its best k.
    fn met(&self, scratch: &Scratch, k: usize) -> Met {
        let Scratch { neighbors, candidates, distances, answer, logits, estimates, .. } = scratch;
        let (labels, scores) = (&answer.0[..k], &answer.1[..k]);
        let (shift, _) = spread(logits, estimates);
        let (mut mean, mut nearest, mut last) = (NOWHERE, NOWHERE, NOWHERE);
        if self.fitted.exemplars.is_some() {
            let own = scratch.square;
            mean = own.sqrt();
            if !distances.is_empty() {
                let of = |score: f32| (own - 2.0 * score).max(0.0).sqrt();
                nearest = of(distances.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                last = of(distances.iter().copied().fold(f32::INFINITY, f32::min));
            }
        }
        let needed = |&label: &i64| {
            let count = u32::try_from(label).map_or(0, |label| candidates.count(label));
            share_needed(count, neighbors.len())
        };
        let [best, kth] = ends(scores);
        Met {
            nearest,
            last,
            mean,
            spread: best - kth,
            kth: kth - shift - self.fitted.level,
            needed_best: labels.first().map_or(0.0, needed),
            needed: labels.iter().map(needed).sum::<f32>() / k.max(1) as f32,
        }
    }

    /// Score every row.
    fn exact(&self, scratch: &Scratch, labels: &mut [i64], scores: &mut [f32]) -> Work {
        let (query, mut work) = (&scratch.query[..self.rows.d()], [Work::default()]);
        let out = Answers { labels, scores, work: &mut work };
        exact::search(self.rows, self.fitted.byte_rows(), self.kernel, query, out);
        work[0]
    }

    /// The same where less was not enough: the work done before counts, too.
    fn exact_after(&self, work: Work, scratch: &Scratch, labels: &mut [i64], scores: &mut [f32]) -> Work {
        let Work { candidates, rescored, step, trust, .. } = self.exact(scratch, labels, scores);
        Work { candidates, rescored: work.rescored + rescored, step, trust, ..work }
    }

    /// Find the candidates: project, probe, and where buckets hold exemplars look up what the nearest needed.
    pub fn candidates(&self, scratch: &mut Scratch) -> Work {
        self.project(scratch);
        self.start_probing(scratch);
        while self.probe(scratch) {
            self.meet(scratch);
        }
        self.choose_neighbors(scratch);
        self.list(scratch);
        Work {
            probes: scratch.probed.buckets,
            entries: scratch.probed.entries,
            neighbors: scratch.neighbors.len(),
            candidates: scratch.candidates.ids().len(),
            ..Work::default()
        }
    }

    /// Begin to probe. Exemplars that are in no bucket are met by every query.
    fn start_probing(&self, scratch: &mut Scratch) {
        let Scratch {
            z,
            margins,
            probes,
            buckets,
            costs,
            probed,
            square,
            exemplars: met,
            observed: met_since,
            cut,
            ..
        } = scratch;
        let Fitted { planes, tables, exemplars, observed, point, .. } = self.fitted;
        buckets.clear();
        costs.clear();
        probes.start(margins, planes.n_bits());
        *probed = Probed {
            most_buckets: self.fitted.grown(point.n_probes.saturating_mul(planes.n_tables())),
            most_entries: self.fitted.grown(point.max_entries),
            ..Probed::default()
        };
        let Some(exemplars) = exemplars else { return };
        met.start(exemplars.len(), tables);
        *square = exemplars.square(z);
        let sketcher = &exemplars.sketched().0;
        let Some(observed) = observed.as_deref() else {
            return cut.start(sketcher, z, point.n_neighbors.min(exemplars.len()));
        };
        cut.start(sketcher, z, point.n_neighbors.min(exemplars.len() + observed.len()));
        let hashed = observed.hashed().map_or(0, |(_, exemplars)| exemplars.len());
        met_since.start(hashed, tables);
        if let Some(recent) = observed.recent() {
            cut.offer_all(self.kernel, &recent.sketched().1, recent.len(), exemplars.len() + hashed);
        }
    }

    /// Visit the next buckets; false if there are no more.
    fn probe(&self, scratch: &mut Scratch) -> bool {
        // Where a bucket begins takes a trip to memory: ask for it some probes before the answer is needed.
        const LAG: usize = 16;
        let Fitted { planes, tables, exemplars, observed, .. } = self.fitted;
        let Scratch { probes, buckets, costs, probed, .. } = scratch;
        let (view, since) = (tables.view(), observed.as_deref().and_then(Observed::hashed));
        let since = since.map(|(tables, _)| tables.view());
        let Probed { most_buckets, most_entries, buckets: mut taken, mut entries, .. } = *probed;
        if probed.over {
            return false;
        }
        let enough = match self.reach() {
            Some(_) => most_entries.min(entries + ROUND.max(entries / 4)),
            None => most_entries,
        };
        while taken < most_buckets && entries < enough {
            while buckets.len() < most_buckets.min(taken + LAG)
                && let Some((table, code, cost)) = probes.next()
            {
                let bucket = (table << planes.n_bits()) | code as usize;
                view.prefetch_offset(bucket);
                since.iter().for_each(|view| view.prefetch_offset(bucket));
                buckets.push(bucket);
                costs.push(cost);
            }
            let Some(&bucket) = buckets.get(taken) else {
                probed.over = true;
                break;
            };
            let found = view.prefetch_bucket(bucket);
            entries += found.len();
            if let (Some(exemplars), Bucket::Range(places)) = (exemplars, found) {
                exemplars.prefetch_sketches(places);
            }
            entries += since.map_or(0, |view| view.prefetch_bucket(bucket).len());
            taken += 1;
        }
        probed.over |= taken == most_buckets || entries >= most_entries;
        (probed.buckets, probed.entries) = (taken, entries);
        taken > probed.met
    }

    /// How far buckets may be, where their costs tell how far they are.
    fn reach(&self) -> Option<f32> {
        let Fitted { planes, exemplars, point, .. } = self.fitted;
        point.reach.filter(|_| exemplars.is_some() && planes.space() == Space::Aligned)
    }

    /// Where buckets hold exemplars, meet those of the latest, and see whether others are likely to be nearer than those
    /// which are the nearest by now.
    fn meet(&self, scratch: &mut Scratch) {
        let Scratch { buckets, costs, probed, square, exemplars: met, observed: met_since, cut, .. } =
            scratch;
        let Fitted { tables, exemplars, observed, .. } = self.fitted;
        let latest = &buckets[probed.met..probed.buckets];
        probed.met = probed.buckets;
        let Some(exemplars) = exemplars else { return };
        cut.offer(self.kernel, &exemplars.sketched().1, met.meet(tables, latest), 0);
        if let Some((tables, since)) = observed.as_deref().and_then(Observed::hashed) {
            // Numbers go on from those of the fit: the observed ones in tables, then the latest.
            cut.offer(self.kernel, &since.sketched().1, met_since.meet(tables, latest), exemplars.len());
        }
        if let (Some(reach), Some(&next)) = (self.reach(), costs.get(probed.met))
            && let Some(kth) = cut.best.kth()
        {
            probed.over |= next > reach * (*square - 2.0 * kth).max(0.0);
        }
    }

    /// Take the nearest of the exemplars met.
    fn choose_neighbors(&self, scratch: &mut Scratch) {
        let Scratch { neighbors, distances, cut, .. } = scratch;
        neighbors.clear();
        distances.clear();
        if self.fitted.exemplars.is_some() {
            cut.keep(neighbors, distances);
        }
    }

    /// List the candidates, each once: what the neighbours needed, or the rows in the buckets.
    fn list(&self, scratch: &mut Scratch) {
        let Scratch { buckets, probed, neighbors, candidates, .. } = scratch;
        candidates.start(self.rows.m());
        candidates.add(&self.fitted.always_include);
        if self.fitted.exemplars.is_some() {
            add_labels(self.fitted.parts(), neighbors, candidates);
        } else {
            let view = self.fitted.tables.view();
            let visited = &buckets[..probed.buckets];
            visited.iter().for_each(|&bucket| candidates.add_bucket(view.bucket(bucket)));
        }
    }

    /// The candidates of the last query, each once, in no order.
    pub fn last_candidates<'s>(&self, scratch: &'s Scratch) -> &'s [u32] {
        scratch.candidates.ids()
    }

    /// Compute the query's coordinates and its margins.
    fn project(&self, scratch: &mut Scratch) {
        self.place(scratch);
        self.hash(scratch);
    }

    /// Round the query to bytes, where that has not been done yet.
    fn round(&self, scratch: &mut Scratch) {
        if let Some(coordinates) = &self.fitted.coordinates
            && !scratch.in_bytes
        {
            coordinates.round(self.kernel, &scratch.query, &mut scratch.rounded);
            scratch.in_bytes = true;
        }
    }

    /// Compute the query's coordinates, where these are not known yet.
    fn place(&self, scratch: &mut Scratch) {
        if let Some(coordinates) = &self.fitted.coordinates
            && !scratch.projected
        {
            self.round(scratch);
            scratch.z.resize(coordinates.rows(), 0.0);
            coordinates.apply_first(self.kernel, &mut scratch.rounded, &mut scratch.z);
            scratch.projected = true;
        }
    }

    /// Find where the loaded query begins to search.
    pub fn begin(&self, scratch: &mut Scratch, effort: Effort) -> Begin {
        if let Some((_, regions)) = self.lists(effort) {
            self.lead(scratch, regions);
            let (near, begun) = regions.nearest(self.kernel, &scratch.z, &mut scratch.place);
            return Begin { place: near.region as u32, near: Some((near, begun)) };
        }
        self.project(scratch);
        Begin { place: code(&scratch.margins[..self.fitted.planes.n_bits()]), near: None }
    }

    /// Compute the margins from what is known of the query.
    fn hash(&self, scratch: &mut Scratch) {
        let planes = &self.fitted.planes;
        match planes.space() {
            Space::Augmented => augment(&scratch.query[..self.rows.d()], 1.0, &mut scratch.x),
            Space::Aligned => lead(&scratch.z, planes.dim(), &mut scratch.x),
        }
        planes.margins(self.kernel, &scratch.x, &mut scratch.margins);
    }
}

/// Whether trust is less than asked for: nothing is, where 1 is asked for.
fn doubted(trust: f32, least: f32) -> bool {
    trust < least || least >= 1.0
}

/// What a scan shows by its best k.
fn scanned(scratch: &Scratch, k: usize) -> Scanned {
    let (shift, error) = spread(&scratch.logits, &scratch.estimates);
    let kth = scratch.answer.1[..k].last().copied().unwrap_or(f32::NEG_INFINITY);
    Scanned { kth, shift, error, cut: scratch.cut.floor }
}

/// Entries after which it is asked whether buckets are out of reach; again after a quarter more, and at least so many.
const ROUND: usize = 64;

/// Rows scored in full before it is first asked whether these are enough, and between such questions.
#[derive(Clone, Copy)]
struct Pace {
    at_first: usize,
    at_once: usize,
}

/// Where estimates are from sketches, and where they are from rows in bytes.
const COARSE: Pace = Pace { at_first: 16, at_once: 8 };
const CLOSE: Pace = Pace { at_first: 8, at_once: 4 };

/// Of the labels whose rows are read in bytes so many, or twice the answers, can be read in full precision.
const LEAST_CLOSE: usize = 24;

/// A row of which the estimate, corrected by the mean error of others, lies so many of their deviations below the k-th
/// logit is not among the best k.
const SURE: f32 = 3.5;

/// What logits are above estimates on average, and their deviation from that.
fn spread(logits: &[f32], estimates: &[f32]) -> (f32, f32) {
    let n = estimates.len().max(1) as f32;
    let shift = sum(logits, estimates, |logit, estimate| logit - estimate) / n;
    let square = |logit, estimate| {
        let error: f32 = logit - estimate - shift;
        error * error
    };
    (shift, (sum(logits, estimates, square) / n).sqrt())
}

/// The best score and the k-th; -inf if there are none.
fn ends(scores: &[f32]) -> [f32; 2] {
    [scores.first(), scores.last()].map(|score| score.copied().unwrap_or(f32::NEG_INFINITY))
}

/// Add the labels of these exemplars, which are numbered through all parts, to the candidates.
fn add_labels(parts: [Option<&Exemplars>; 3], neighbors: &[u32], candidates: &mut Union) {
    // Where labels begin, then the labels: both trips to memory begin while those of earlier exemplars are added.
    const LAG: usize = 4;
    let [fit, hashed, recent] = parts.map(|part| part.map(|exemplars| (exemplars.view(), exemplars.len())));
    let Some((fit, n)) = fit else { return };
    let since = |exemplar: usize| match (hashed, recent) {
        (Some((view, n)), _) if exemplar < n => (view, exemplar as u32),
        (Some((_, n)), Some((view, _))) => (view, (exemplar - n) as u32),
        (_, Some((view, _))) => (view, exemplar as u32),
        _ => (fit, u32::MAX),
    };
    let at = |exemplar: u32| match (exemplar as usize).checked_sub(n) {
        None => (fit, exemplar),
        Some(exemplar) => since(exemplar),
    };
    let prefetch_offset = |&exemplar: &u32| {
        let (view, exemplar) = at(exemplar);
        view.prefetch_offset(exemplar);
    };
    let prefetch_labels = |&exemplar: &u32| {
        let (view, exemplar) = at(exemplar);
        view.prefetch_labels(exemplar);
    };
    neighbors.iter().take(2 * LAG).for_each(prefetch_offset);
    neighbors.iter().take(LAG).for_each(prefetch_labels);
    for (place, &exemplar) in neighbors.iter().enumerate() {
        neighbors.get(place + 2 * LAG).into_iter().for_each(prefetch_offset);
        neighbors.get(place + LAG).into_iter().for_each(prefetch_labels);
        let (view, exemplar) = at(exemplar);
        candidates.add(view.labels(exemplar));
    }
}

/// Sketches read at a time where all are.
const SCAN_ROWS: usize = 256;

/// Scratch of a choice by sketches: of exemplars, of candidates, of all rows.
#[derive(Default)]
struct Cut {
    query: SketchQuery,
    scores: Vec<f32>,
    best: TopK,
    /// How many are kept, and how many have been offered.
    r: usize,
    offered: usize,
    /// The least score kept; -inf where nothing was cut.
    floor: f32,
}

impl Cut {
    /// Keep the `r` ids with the best sketch scores for a query with coordinates `z`, in no order, and their
    /// scores. If there are no more than `r`, scores are known only if `all` asks for them.
    #[allow(clippy::too_many_arguments, reason = "what to choose from, how many, and where to")]
    fn best(
        &mut self,
        kernel: Kernel,
        (sketcher, sketches): &(Sketcher, Sketches),
        z: &[f32],
        ids: &[u32],
        r: usize,
        all: bool,
        kept: &mut Vec<u32>,
        scores: &mut Vec<f32>,
    ) {
        self.floor = f32::NEG_INFINITY;
        scores.clear();
        if ids.len() <= r && !all {
            kept.clear();
            kept.extend_from_slice(ids);
            return;
        }
        self.start(sketcher, z, r.min(ids.len()));
        self.offer(kernel, sketches, ids, 0);
        self.keep(kept, scores);
    }

    /// Keep `r` of what is offered from now on.
    fn start(&mut self, sketcher: &Sketcher, z: &[f32], r: usize) {
        self.query.prepare(sketcher, z);
        self.best.reset(r);
        (self.r, self.offered) = (r, 0);
    }

    /// Offer these sketches, as `first` more than their ids.
    fn offer(&mut self, kernel: Kernel, sketches: &Sketches, ids: &[u32], first: usize) {
        self.scores.clear();
        self.scores.resize(ids.len(), 0.0);
        let view = SketchView { layout: sketches.layout(), codes: sketches.codes() };
        kernel.sketch_ids(view, &self.query, ids, &mut self.scores);
        self.best.extend_each(&self.scores, |at| ids[at] + first as u32);
        self.offered += ids.len();
    }

    /// Offer all of `n` sketches.
    fn offer_all(&mut self, kernel: Kernel, sketches: &Sketches, n: usize, first: usize) {
        self.scores.clear();
        self.scores.resize(SCAN_ROWS.min(n), 0.0);
        let view = SketchView { layout: sketches.layout(), codes: sketches.codes() };
        for from in (0..n).step_by(SCAN_ROWS) {
            let scores = &mut self.scores[..SCAN_ROWS.min(n - from)];
            kernel.sketch_rows(view, &self.query, from, scores);
            self.best.extend_range(scores, (first + from) as u32);
        }
        self.offered += n;
    }

    /// Write what is kept, in no order, and the scores.
    fn keep(&mut self, kept: &mut Vec<u32>, scores: &mut Vec<f32>) {
        self.best.ordered(kept, scores);
        let cut = self.offered > self.r;
        self.floor =
            if cut { scores.iter().copied().fold(f32::INFINITY, f32::min) } else { f32::NEG_INFINITY };
    }
}
