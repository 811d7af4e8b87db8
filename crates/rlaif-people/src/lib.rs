//! Opinions of people on responses.
//!
//! A [`Study`] is a file (SQLite) of items, annotators and answers. An item is a prompt with two or more
//! responses ([`StudyItem`], [`read_items`], [`read_evaluations`]); each annotator sees its responses in an
//! order of their own, drawn from the study's seed. Every answer is on disk before it is acknowledged.
//! [`StudyAgreement`] has agreement, habits of annotators and strengths of models; [`PeopleLabels`] are soft
//! labels to train on; [`write_answers`] and [`read_answers`] speak the forms of other tools.
//!
//! ```
//! use rlaif_people::{AnnotatorRole, LabelOptions, PeopleAnswer, PeopleChoice, PeopleLabels};
//! use rlaif_people::{Study, StudyAgreement, StudyItem, StudySettings};
//! # let folder = tempfile::tempdir()?;
//! let settings = StudySettings { overlap: 1., ..StudySettings::default() };
//! let study = Study::create(&folder.path().join("people.sqlite"), &settings)?;
//! study.add_items(&[StudyItem::pair("7", "Why?", "Because.", "No.")])?;
//! for name in ["ann", "bob", "cy"] {
//!     let who = study.add_annotator(name, AnnotatorRole::Annotator)?;
//!     let shown = study.next(&who)?.unwrap();
//!     // All but cy prefer `Because.`, in whichever place they see it.
//!     let because = shown.order == [0, 1];
//!     let choice = if because == (name != "cy") { PeopleChoice::First } else { PeopleChoice::Second };
//!     study.answer(&who, shown.number, name, PeopleAnswer::new(choice))?;
//! }
//! let contents = study.contents()?;
//! assert_eq!(StudyAgreement::of(&contents).choice.raw, Some(1. / 3.));
//! let labels = PeopleLabels::of(&contents, &LabelOptions::default()).labels;
//! assert_eq!((labels[0].probability, labels[0].votes), (2. / 3., 3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod agree;
mod answer;
mod error;
mod forms;
mod import;
mod item;
mod labels;
mod merge;
mod settings;
mod store;

pub use agree::{
    AnnotatorSummary, JudgePositions, MakerStrength, MakerStrengths, PairAgreement,
    PeopleAgreement, StudyAgreement,
};
pub use answer::{BothOrders, EditedResponse, PeopleAnswer, PeopleChoice, PeopleDraft};
pub use error::PeopleError;
pub use forms::{
    ReadAnswer, ReadAnswers, StudyForm, WrittenAnswers, read_answers, write_answers, write_file,
};
pub use import::{ItemPurpose, ReadItems, read_evaluations, read_items};
pub use item::StudyItem;
pub use labels::{KnownItems, LabelOptions, PeopleDemonstration, PeopleLabel, PeopleLabels};
pub use merge::MergedAnswers;
pub use settings::{FoldedTexts, StudySettings};
pub use store::{
    AddedItems, Annotator, AnnotatorRole, ShownItem, StoredAnswer, Study, StudyContents,
    StudyProgress, random_token,
};
